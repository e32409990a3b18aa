"""Finding what goes into a crate: the ancestry of what was asked for, and everything that is stored of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maggma.utils import grouper

from dao_flows.api.export import render
from dao_flows.audit.graph.documents import output_references
from dao_flows.makers.schemas.prediction import CandidateDoc
from dao_flows.makers.schemas.verification import VerificationDoc
from dao_flows.makers.stages.declaration import STORING
from dao_flows.store import imported
from dao_flows.store.collections import KEYS, LAID_OUT
from dao_flows.store.stores import collection

from .contents import Contents, Node, dataset_files
from .documents import job_key
from .layout import document_path

if TYPE_CHECKING:
    from jobflow.core.store import JobStore

CHUNK = 100
SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
NO_JOBS = ("checkpoint", "dataset", "reference", "source", "run")


def _formula(document: dict[str, Any]) -> str:
    """The formula in the characters that a crate's members have."""
    return re.sub(r"[^A-Za-z0-9]+", "-", str(document["formula"]))[:40].strip("-") or "structure"


def gather(store: JobStore, ids: Sequence[str], weights: bool = False, shards: bool = False) -> Contents:
    """Everything that is stored of these ids and of all that they were made from. Raises InputError, CrateError."""
    from dao_flows.audit.graph.from_store import build

    graph = build(store, ids, "back")
    asked, more = list(graph.asked), set[str]()
    while over := _handed_over(store, graph.nodes) - more:
        more |= over
        graph = build(store, [*ids, *sorted(more)], "back")
    laid_out = set(_laid_out(store, [name for kind, name in graph.nodes if kind == "screening"]))
    contents = Contents(asked, sorted({*graph.edges, *laid_out}), weights, shards)
    _Gathering(store, contents, sorted({*graph.nodes, *(candidate for _, candidate in laid_out)})).run()
    return contents


def _laid_out(store: JobStore, screenings: Sequence[str]) -> Iterator[tuple[Node, Node]]:
    """Every candidate of these screenings: where only some arrived, the others would count as lost."""
    job = "screening.execution.job_uuid"
    for document in _query(collection(store, "candidates"), job, screenings):
        uuid = document["screening"]["execution"]["job_uuid"]
        yield ("screening", uuid), ("candidate", document["candidate_id"])


def _handed_over(store: JobStore, nodes: Iterable[Node]) -> set[str]:
    """Jobs that are no nodes, whose outputs stand for those of nodes' jobs: left out, they would count as lost."""
    jobs = {name for kind, name in nodes if kind not in (*LAID_OUT, *NO_JOBS)}
    found: set[str] = set()
    for chunk in grouper(sorted(jobs), CHUNK):
        criteria = {"uuid": {"$in": list(chunk)}, "name": STORING}
        for document in store.query(criteria, properties=["output"]):
            found |= set(output_references(document.get("output")))
    return {document["uuid"] for document in _query(store, "uuid", found - jobs)}


class _Gathering:
    """Fills the contents of a crate, a kind of node after another."""

    def __init__(self, store: JobStore, contents: Contents, nodes: list[Node]) -> None:
        self.store, self.contents, self.nodes = store, contents, nodes

    def run(self) -> None:
        """All of it."""
        self._collections()
        self._jobs()
        self._runs()
        self._checkpoints()
        self._datasets()
        self._figures()
        self.contents.left += [f"the reference set {name[:12]}" for name in self._of("reference")]
        for node in self.nodes:
            if node not in self.contents.places:
                self.contents.places[node] = f"#{node[0]}-{node[1]}"

    def _of(self, kind: str) -> list[str]:
        return [name for what, name in self.nodes if what == kind]

    def _collections(self) -> None:
        """Candidates, verifications and comparisons, with their structures."""
        for kind, name in LAID_OUT.items():
            for document in _query(collection(self.store, name), KEYS[name], self._of(kind)):
                key = document[KEYS[name]]
                path = document_path(name, key)
                self.contents.documents[name][key] = document
                self.contents.places[kind, key] = path
                self._structure(kind, key, document)

    def _structure(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """The structure of a candidate as ranked, of a verification as relaxed, as a CIF file."""
        contents = self.contents
        if kind == "candidate":
            candidate = CandidateDoc.model_validate(document)
            text, title = render(candidate, "cif"), f"{candidate.formula}, candidate {key}"
        elif kind == "verification" and document.get("structure") is not None:
            verified = VerificationDoc.model_validate(document)
            assert verified.structure is not None
            title = f"{verified.formula}, verification {key} by {verified.backend}"
            text = cif(verified.structure, title)
        else:
            return
        path = f"structures/{_formula(document)}_{Path(document_path('jobs', key)).stem}.cif"
        contents.structures[path] = text
        contents.titles[path] = title
        contents.of_structure[path] = (kind, key)

    def _jobs(self) -> None:
        """The documents of jobs: those of the nodes, and those that made what is laid out from them."""
        wanted = {name for kind, name in self.nodes if kind not in (*LAID_OUT, *NO_JOBS)}
        made_by: dict[Node, str] = {}
        for kind, name in LAID_OUT.items():
            for key, document in self.contents.documents[name].items():
                execution = (document.get("screening") or document.get("provenance") or {}).get("execution", {})
                if uuid := execution.get("job_uuid"):
                    made_by[kind, key] = uuid
        found: dict[str, str] = {}
        for document in _query(self.store, "uuid", wanted | set(made_by.values())):
            self._job(document)
            found.setdefault(document["uuid"], job_key(document))
        for node in self.nodes:
            if node[1] in found:
                self.contents.jobs[node] = found[node[1]]
                self.contents.places[node] = document_path("jobs", found[node[1]])
        for node, uuid in made_by.items():
            if uuid in found:
                self.contents.jobs[node] = found[uuid]
        bare = {
            name for kind, name in self.nodes if kind == "verification" and (kind, name) not in self.contents.places
        }
        for document in _query(self.store, "output.verification_id", bare):  # not laid out yet
            self._job(document)
            node = ("verification", str(document["output"]["verification_id"]))
            self.contents.jobs[node] = job_key(document)
            self.contents.places[node] = document_path("jobs", job_key(document))

    def _job(self, document: dict[str, Any]) -> None:
        self.contents.documents["jobs"][job_key(document)] = document

    def _runs(self) -> None:
        """Records of the runs that the jobs belong to, and of every attempt at them."""
        jobs = self.contents.documents["jobs"].values()
        marks = (job.get("metadata", {}).get("dao_flows") for job in jobs)
        runs = {mark["run_id"] for mark in marks if isinstance(mark, dict) and "run_id" in mark} | set(self._of("run"))
        records = collection(self.store, "runs")
        for record in _query(records, "job_uuid", {job["uuid"] for job in jobs}):
            self.contents.documents["runs"][record["record_id"]] = record
        for record in _query(records, "run_id", runs):
            if "attempt_id" not in record:  # attempts at other jobs of the same run are no part of this history
                self.contents.documents["runs"][record["record_id"]] = record

    def _checkpoints(self) -> None:
        """Folders of the checkpoints that the library holds."""
        from dao_flows.model.checkpoint.format import CheckpointError, read_card, verify
        from dao_flows.model.checkpoint.library import find

        for sha256 in self._of("checkpoint"):
            try:
                folder = find(sha256)
                card = verify(folder) if self.contents.weights else read_card(folder)
            except CheckpointError:
                self.contents.left.append(f"the checkpoint {sha256[:12]}, which is not in your library")
                continue
            ident = f"#checkpoint-{sha256}"
            self.contents.checkpoints[sha256] = folder
            self.contents.places["checkpoint", sha256] = ident
            self.contents.titles[ident] = f"checkpoint {card.name} ({card.kind})"

    def _datasets(self) -> None:
        """Folders of the datasets that are where the documents say."""
        folders = self._known_folders()
        for sha256 in self._of("dataset"):
            folder = folders.get(sha256)
            if folder is None:
                self.contents.left.append(f"the dataset {sha256[:12]}, which is not where its documents say")
                continue
            ident = f"#dataset-{sha256}"
            self.contents.datasets[sha256] = folder
            self.contents.places["dataset", sha256] = ident
            if self.contents.shards:
                self.contents.files[sha256] = dataset_files(folder)

    def _figures(self) -> None:
        """Figures and tables that documents name, if they are here and unchanged."""
        from dao_flows.model.data.shards import file_sha256

        contents = self.contents
        for key, document in contents.documents["jobs"].items():
            output = document.get("output")
            if not isinstance(output, dict) or not isinstance(provenance := output.get("provenance"), dict):
                continue
            for name, sha256 in provenance.get("files", {}).items():
                kept, _, inside = name.partition("/")
                if name == "rejects" or (inside and not inside.startswith("../")):
                    continue  # cards and what belongs to datasets have places of their own, codes' folders stay
                file = imported.file(sha256) or Path(str(output.get(kept))) / inside
                path = f"files/{sha256}{file.suffix if SUFFIX.fullmatch(file.suffix) else ''}"
                if file.is_file() and file_sha256(file) == sha256:
                    contents.figures[path], contents.of_figure[path] = file, key
                    contents.titles[path] = f"{name} of {document.get('name') or key}"
                else:
                    contents.left.append(f"the {name} of {document.get('name') or key}, which is not where it was")

    def _known_folders(self) -> dict[str, Path]:
        """Datasets by their sha256: in the data folder, where documents say that they lie, and installed libraries."""
        from dao_flows.model.data.shards import DataError, read_manifest
        from dao_flows.model.templates.places import available

        places = [*available().values(), *sorted(imported.datasets_folder().glob("*"))]
        for document in self.contents.documents["jobs"].values():
            output = document.get("output")
            if isinstance(output, dict) and isinstance(output.get("path"), str) and "checkpoint_sha256" not in output:
                place = Path(output["path"])
                places.append(place if place.is_dir() else place.parent)
        found = {}
        for place in places:
            try:
                found[read_manifest(place).sha256] = place
            except DataError:
                continue
        return found


def cif(structure: Any, title: str) -> str:
    """A structure in P1, as `export` writes candidates."""
    from pymatgen.io.cif import CifWriter

    return f"# {title}\n{CifWriter(structure, significant_figures=8)}"


def _query(store: Any, field: str, wanted: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Documents whose field is one of these, in the order of their ids."""
    for chunk in grouper(sorted(set(wanted)), CHUNK):
        options = {"load": True} if hasattr(store, "additional_stores") else {}
        found = list(store.query({field: {"$in": list(chunk)}}, **options))
        yield from sorted(found, key=lambda document: str(document.get("_id")))
