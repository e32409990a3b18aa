"""Modules that stores of earlier versions name, under those names still.

jobflow and FireWorks find the class of a stored document or job by the module that wrote it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

RENAMED = {
    "dao_flows.makers.schemas": "dao_flows.makers.schemas.prediction",  # now a package, which names the same classes
    "dao_flows.comparison_schemas": "dao_flows.comparison.schemas",
    "dao_flows.makers.dataset_schemas": "dao_flows.makers.schemas.dataset",
    "dao_flows.makers.label_schemas": "dao_flows.makers.schemas.labels",
    "dao_flows.makers.relax_schemas": "dao_flows.makers.schemas.relaxation",
    "dao_flows.makers.train_schemas": "dao_flows.makers.schemas.training",
    "dao_flows.makers.verification_schemas": "dao_flows.makers.schemas.verification",
}


class _Renamed(MetaPathFinder, Loader):
    """Finds a module by its former name; both names are one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in RENAMED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return import_module(RENAMED[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """It has run, under its own name."""


def current(module: str) -> str:
    """The name that a module goes by now."""
    return RENAMED.get(module, module)


def keep_former_names() -> None:
    """Make modules importable by their former names, once."""
    if not any(isinstance(finder, _Renamed) for finder in sys.meta_path):
        sys.meta_path.append(_Renamed())
