"""What goes into a crate: documents, structures, cards and manifests of a history, found through its graph."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dao_flows.makers.jobs.attempts import ENDED

from .archive import CrateError
from .documents import written
from .history import Activity, History, Thing, moment
from .layout import FOLDERS, MANIFEST, document_path

Node = tuple[str, str]  # kind, id
CHUNK = 100
STORE_FIELDS = ("_id", "last_updated", "_bt")  # a store's own


@dataclass
class Contents:
    """All that a crate is made of.

    documents: collection -> key -> document; jobs: node -> key of the job that made it; places: node -> path in the
    crate, or an ident of its own; structures: path -> CIF, of_structure: path -> its node; checkpoints, datasets:
    sha256 -> folder; files: those of a dataset beside its manifest; figures: path -> file that a document names,
    of_figure: path -> key of its job; left: what is known by its hash alone.
    """

    asked: list[Node]
    edges: list[tuple[Node, Node]]
    weights: bool = False
    shards: bool = False
    documents: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {name: {} for name in FOLDERS})
    jobs: dict[Node, str] = field(default_factory=dict)
    places: dict[Node, str] = field(default_factory=dict)
    structures: dict[str, str] = field(default_factory=dict)
    of_structure: dict[str, Node] = field(default_factory=dict)
    checkpoints: dict[str, Path] = field(default_factory=dict)
    datasets: dict[str, Path] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)
    of_figure: dict[str, str] = field(default_factory=dict)

    def title(self) -> str:
        """A name for the whole."""
        formulas = sorted({document["formula"] for document in self.documents["candidates"].values()})
        what = ", ".join(formulas[:5]) + (", …" if len(formulas) > 5 else "")
        if what:
            return f"Predicted crystal structures of {what}"
        return f"Results of dao_flows: {', '.join(f'{kind} {name[:16]}' for kind, name in self.asked[:3])}"

    def asked_names(self) -> list[str]:
        """The nodes asked for, as the command line takes them."""
        return sorted(f"{kind}:{name}" for kind, name in self.asked)

    def members(self) -> Iterator[tuple[str, bytes | Path]]:
        """Paths in the crate, and what lies there."""
        for name, held in self.documents.items():
            for key, document in held.items():
                yield document_path(name, key), stored_form(document)
        for path, text in self.structures.items():
            yield path, text.encode()
        yield from self.figures.items()
        for sha256, folder in self.checkpoints.items():
            from dao_flows.model.checkpoint.format import weight_files
            from dao_flows.model.files.places import CARD

            yield f"checkpoints/{sha256}/{CARD}", (folder / CARD).read_bytes()
            if self.weights:
                for file in weight_files(folder):
                    yield f"checkpoints/{sha256}/{file.name}", file
        for sha256, folder in self.datasets.items():
            yield f"datasets/{sha256}/{MANIFEST}", (folder / MANIFEST).read_bytes()
            for file in self.files.get(sha256, ()):
                yield f"datasets/{sha256}/{file.name}", file

    def history(self) -> History:
        """The same as things and activities."""
        things = {}
        for node, ident in sorted(self.places.items()):
            things[ident] = self._thing(node, ident)
        for key, document in self.documents["jobs"].items():
            path = document_path("jobs", key)
            things.setdefault(path, Thing(path, "job", f"{document.get('name') or 'job'} {key}"))
        for path in self.structures:
            things[path] = Thing(path, "structure", self.titles.get(path, path))
        for path in self.figures:
            things[path] = Thing(path, "file", self.titles.get(path, path))
        derived = sorted(
            {(self.places[a], self.places[b]) for a, b in self.edges if a in self.places and b in self.places}
        )
        asked = tuple(sorted({self.places[node] for node in self.asked if node in self.places}))
        return History(things, tuple(self._activities()), asked, tuple(pair for pair in derived if pair[0] != pair[1]))

    def workflow(self, history: History) -> bytes:
        """workflow.json: the jobs in their order, with what each used and made."""
        jobs = [
            {
                "job": activity.ident,
                "name": activity.name,
                "maker": activity.maker,
                "dao_flows": activity.version,
                "used": list(activity.used),
                "made": list(activity.made),
                "failed": activity.error is not None,
            }
            for activity in history.activities
        ]
        return (json.dumps({"jobs": jobs}, indent=1, ensure_ascii=False) + "\n").encode()

    def _thing(self, node: Node, ident: str) -> Thing:
        kind, name = node
        title = self.titles.get(ident) or f"{kind.replace('_', ' ')} {name}"
        return Thing(ident, kind, title, name if kind in ("checkpoint", "dataset") else None, self._parts(name))

    def _parts(self, sha256: str) -> tuple[str, ...]:
        """The members that make up a checkpoint or a dataset."""
        from dao_flows.model.checkpoint.format import weight_files
        from dao_flows.model.files.places import CARD

        if sha256 in self.checkpoints:
            weights = weight_files(self.checkpoints[sha256]) if self.weights else []
            return tuple(f"checkpoints/{sha256}/{name}" for name in [CARD, *(file.name for file in weights)])
        if sha256 in self.datasets:
            names = [MANIFEST, *(file.name for file in self.files.get(sha256, ()))]
            return tuple(f"datasets/{sha256}/{name}" for name in names)
        return ()

    def _activities(self) -> Iterator[Activity]:
        """Each job in the order of their starts, and attempts that failed."""
        used: dict[str, set[str]] = {}
        made = {key: {document_path("jobs", key)} for key in self.documents["jobs"]}
        for node, key in self.jobs.items():
            if node in self.places:
                made[key].add(self.places[node])
        for path, node in self.of_structure.items():
            if node in self.jobs:
                made[self.jobs[node]].add(path)
        for path, key in self.of_figure.items():
            made[key].add(path)
        for parent, child in self.edges:
            if child in self.jobs and parent in self.places and self.jobs.get(parent) != self.jobs[child]:
                used.setdefault(self.jobs[child], set()).add(self.places[parent])
        ends = {(r["job_uuid"], r["job_index"]): r for r in self._attempts("finished")}
        begun = {r["attempt_id"]: r for r in self.documents["runs"].values() if "who" in r and "attempt_id" in r}
        found = []
        for key, document in self.documents["jobs"].items():
            provenance = document["output"].get("provenance") if isinstance(document.get("output"), dict) else None
            science, execution = (provenance or {}).get("science", {}), (provenance or {}).get("execution", {})
            end = ends.get((document["uuid"], document["index"]), {})
            start = begun.get(end.get("attempt_id"), {})
            found.append(
                Activity(
                    ident=f"job-{key}",
                    name=str(document.get("name") or key),
                    maker=science.get("maker") or str(start.get("function", "")).split(".")[0] or "job",
                    version=science.get("code_version", ""),
                    started=moment(execution.get("started_at") or start.get("at")),
                    ended=moment(execution.get("ended_at") or end.get("at") or document["completed_at"]),
                    who=start.get("who"),
                    used=tuple(sorted(used.get(key, ()))),
                    made=tuple(sorted(made[key])),
                )
            )
        for end in self._attempts("failed"):
            start = begun.get(end["attempt_id"], {})
            found.append(
                Activity(
                    ident=f"attempt-{end['attempt_id']}",
                    name=str(start.get("job_name", end["job_uuid"])),
                    maker=str(start.get("function", "")).split(".")[0] or "job",
                    version=str(start.get("libraries", {}).get("dao_flows", "")),
                    started=moment(start.get("at")),
                    ended=moment(end["at"]),
                    who=start.get("who"),
                    error=str(end.get("error")),
                )
            )
        yield from sorted(found, key=lambda activity: (activity.started or "", activity.ident))

    def _attempts(self, outcome: str) -> list[dict[str, Any]]:
        """The ends of attempts at jobs that came out so, in their order."""
        ends = [r for r in self.documents["runs"].values() if r.get("event") == ENDED and r.get("outcome") == outcome]
        return sorted(ends, key=lambda record: (record["at"], record["record_id"]))


def stored_form(document: Mapping[str, Any]) -> bytes:
    """A document of a store as it stands in a crate, without the store's own fields. Raises CrateError."""
    try:
        return written({k: v for k, v in document.items() if k not in STORE_FIELDS})
    except (ValueError, TypeError) as error:
        raise CrateError(f"the document {document.get('_id')} cannot stand in a crate: {error}") from None


def dataset_files(folder: Path) -> list[Path]:
    """The files of a dataset beside its manifest. Raises CrateError if one is missing or was changed."""
    from dao_flows.model.data.shards import DataError, parts, read_manifest

    try:
        files, _ = parts(folder)
        named = read_manifest(folder).files() if folder.is_dir() else {}
    except DataError as error:
        raise CrateError(str(error)) from None
    return [*files, *(folder / name for name in named if folder / name not in files)]
