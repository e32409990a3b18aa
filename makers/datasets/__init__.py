"""Building datasets: sources of many kinds become clean, deduplicated parquet shards with a manifest.

A source yields raw rows; `cleaning` turns each into a row or says what is wrong with it; `matching` finds what is held
out or there already; `build` streams the rest into shards.
"""

from .build import build_dataset
from .config import BuildConfig
from .readers.raw import SourceError

__all__ = ["BuildConfig", "SourceError", "build_dataset"]
