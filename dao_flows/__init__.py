"""dao_flows: crystal structures from compositions, with provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .makers.jobs.renamed import keep_former_names
from .version import __version__

if TYPE_CHECKING:
    from .api.predict import predict

__all__ = ["__version__", "predict"]

keep_former_names()


def __getattr__(name: str) -> Any:
    """`predict` is loaded when it is first asked for: it brings torch, pymatgen and jobflow with it."""
    if name == "predict":
        from .errors import configuration_guard

        with configuration_guard():
            from .api.predict import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
