"""How software and machine differ from those that a document records."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from dao_flows.makers.jobs.provenance import code_sha256, library_versions
from dao_flows.makers.schemas.document import Science
from dao_flows.makers.stages.rebuilding import Recorded
from dao_flows.version import __version__

from .results import Change

# versions of programs, which stand in the science for they decide the result
VERSIONS = (
    *("code_version", "parameters.program_version", "parameters.atomate2", "parameters.force_field_version"),
    "parameters.judge_version",
)


def of_programs(recorded: Science, fresh: Science) -> list[Change]:
    """Programs among what decides a result that are of another version here."""
    found = []
    for name in (path.removeprefix("parameters.") for path in VERSIONS if path.startswith("parameters.")):
        was, here = recorded.parameters.get(name), fresh.parameters.get(name)
        if was != here:
            found.append(Change(what=name, recorded=was, here=here))
    return found


def of_the_machine(recorded: Recorded, device: str) -> list[Change]:
    """How software and machine differ from the recorded ones, where it may matter to the result."""
    import torch

    execution = recorded.execution
    libraries: Mapping[str, Any] = execution.get("libraries") or {}
    here = library_versions()
    cuda = device.startswith("cuda")
    name = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
    kinds = [str(each).partition(":")[0] for each in (execution.get("device"), device)]
    pairs: list[tuple[str, Any, Any]] = [
        ("dao_flows", recorded.science.code_version, __version__),
        *((library, libraries.get(library), here.get(library)) for library in {**libraries, **here}),
        ("device", kinds[0], kinds[1]),
        ("processor" if not cuda else "GPU", execution.get("device_name"), name),
    ]
    if (code := execution.get("code_sha256")) is not None:
        pairs.append(("code", code[:12], code_sha256()[:12]))
    changes = [Change(what=what, recorded=was, here=now) for what, was, now in pairs if was != now and was is not None]
    return [change for change in changes if change.what != "dao-flows" or change.here is not None]
