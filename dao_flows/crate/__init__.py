"""Crates: results with their whole history in one archive (RO-Crate), written for others and read with suspicion."""

from __future__ import annotations

from .archive import CrateError, Limits, limits

__all__ = ["CrateError", "Limits", "limits"]
