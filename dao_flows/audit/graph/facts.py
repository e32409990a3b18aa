"""What is told of a node: facts of documents in brief, and what a document is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dao_flows.makers.stages.registry import stages
from dao_flows.store.collections import LAID_OUT

from .documents import Document, Node, listed, part, string
from .graph import Facts


def of_job(node: Node, job: Document, documents: list[Document]) -> Facts:
    """What the document of a job tells; `documents`: all of this uuid, replacements too."""
    facts = of_document(node, part(job, "output"), part(job, "output", "provenance"))
    facts.job, facts.job_name = string(job["uuid"]), string(documents[0].get("name"))
    if len(documents) > 1:
        facts.details["replaced"] = len(documents) - 1
    if node[0] == "job":
        facts.label = facts.job_name or "job"
    facts.when = facts.when or _moment(job.get("completed_at"))
    facts.run = string(part(job, "metadata", "dao_flows").get("run_id"))
    return facts


def of_document(node: Node, document: Mapping[str, Any], provenance: Mapping[str, Any]) -> Facts:
    """What a document tells. provenance: its own, of a candidate that of its screening."""
    science, execution = part(provenance, "science"), part(provenance, "execution")
    facts = Facts(
        label=_label(node, document),
        state="failed" if document.get("state") == "failed" else "stored",
        when=string(execution.get("ended_at")),
        job=string(execution.get("job_uuid")),
        maker=string(science.get("maker")),
        code_version=string(science.get("code_version")),
        host=string(execution.get("host")),
        science_hash=string(provenance.get("science_hash")),
        content_hash=string(provenance.get("content_hash")),
    )
    told = ("formula", "z", "rank", "prototype", "backend", "step", "stage", "split", "shard", "rows", "error", "path")
    facts.details = {name: document[name] for name in told if document.get(name) is not None}
    energies = ("energy_per_atom", "predicted_energy_above_hull", "energy_above_hull", "energy_error")
    facts.details |= {name: document[name] for name in energies if document.get(name) is not None}
    if node[0] == "candidate" and isinstance(energy := document.get("energy"), Mapping):
        facts.details["predicted_energy_above_hull"] = energy.get("value")
    if node[0] == "candidate":
        facts.details["from"] = _origin(part(document, "origin"))
    if science.get("seed") is not None:
        facts.details["seed"] = science["seed"]
    if formulas := _formulas(science):
        facts.details["formulas"] = formulas
    return facts


def _origin(origin: Mapping[str, Any]) -> str:
    """Where a candidate comes from, in a few words."""
    if origin.get("kind") not in ("template", "known"):
        return f"drawn by {by}" if (by := origin.get("generator")) else "drawn"
    what = "known" if origin["kind"] == "known" else origin.get("formula")
    return f"{what} {origin.get('material_id')}"


def _formulas(science: Mapping[str, Any]) -> list[str]:
    asked = listed(part(science, "inputs").get("compositions"))
    return [name for entry in asked if (name := string(part(entry).get("formula")))]


def _label(node: Node, document: Mapping[str, Any]) -> str:
    """What a document is called in a drawing."""
    kind = node[0].replace("_", " ")
    if node[0] in LAID_OUT:
        return f"{document.get('formula') or kind} {node[1]}"
    stage = stages().by_kind.get(node[0])
    return kind if stage is None else stage.called(document)


def _moment(value: Any) -> str | None:
    return None if value is None else str(value)
