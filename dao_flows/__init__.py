"""dao_flows: crystal structures from compositions, with provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import predict

__version__ = "0.1.0"
__all__ = ["__version__", "predict"]


def __getattr__(name: str) -> Any:
    """`predict` is loaded when it is first asked for: it brings torch, pymatgen and jobflow with it."""
    if name == "predict":
        from .errors import configuration_guard

        with configuration_guard():
            from .api import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
