"""Modules that stores of earlier versions name, under those names still.

jobflow and FireWorks find the class of a stored document or job by the module that wrote it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

RENAMED = {
    "dao_flows.makers.schemas": "dao_flows.makers.schemas.prediction",  # now a package, which names the same classes
    "dao_flows.comparison_schemas": "dao_flows.comparison.schemas",
    "dao_flows.makers.dataset_schemas": "dao_flows.makers.schemas.dataset",
    "dao_flows.makers.label_schemas": "dao_flows.makers.schemas.labels",
    "dao_flows.makers.relax_schemas": "dao_flows.makers.schemas.relaxation",
    "dao_flows.makers.train_schemas": "dao_flows.makers.schemas.training",
    "dao_flows.makers.verification_schemas": "dao_flows.makers.schemas.verification",
}


class _Renamed:
    """Finds a module by its former name; both names are one module.

    It has what importlib asks for, not its base classes: importing those would cost every start 13 ms.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in RENAMED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty one will do, for `exec_module` puts another in its place."""

    def exec_module(self, module: ModuleType) -> None:
        """Importlib takes what stands in sys.modules afterwards; so the module keeps its own name and spec."""
        sys.modules[module.__name__] = import_module(RENAMED[module.__name__])


def current(module: str) -> str:
    """The name that a module goes by now."""
    return RENAMED.get(module, module)


def in_present_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document, its class named by its present module."""
    return {name: current(str(value)) if name == "@module" else value for name, value in document.items()}


def keep_former_names() -> None:
    """Make modules importable by their former names, once."""
    if not any(isinstance(finder, _Renamed) for finder in sys.meta_path):
        sys.meta_path.append(_Renamed())
