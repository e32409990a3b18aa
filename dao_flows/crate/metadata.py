"""ro-crate-metadata.json: the crate as a Provenance Run Crate, which is a Workflow Run Crate with all of its steps."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .archive import CrateError
from .history import About, Activity, History, Thing
from .layout import ENVIRONMENT, MANIFEST, METADATA, PROV, README, WORKFLOW, Member

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

VERSION = "1.1"  # of RO-Crate, which the profiles build on
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
TERMS = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}  # the one word that RO-Crate 1.1 lacks
JOBFLOW = "https://materialsproject.github.io/jobflow/"
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
PAPER = "https://doi.org/10.1038/s41467-026-72362-3"
ORCID = "https://orcid.org/"
COMPLETED, FAILED = "http://schema.org/CompletedActionStatus", "http://schema.org/FailedActionStatus"
TYPES = {".cif": "chemical/x-cif", ".parquet": "application/vnd.apache.parquet", ".jsonl": "application/jsonl"}
TYPES |= {".safetensors": "application/octet-stream", ".md": "text/markdown"}
TITLES = {
    MANIFEST: "Sizes and sha256 of all members",
    PROV: "The same history in PROV-JSON",
    README: "How to read this crate",
    ENVIRONMENT: "Python packages installed where the crate was written",
}
INSTALL = "crates need the packages rocrate and prov: pip install 'dao-flows[crates]'"


def metadata(history: History, about: About, members: Mapping[str, Member], version: str, jobflow: str) -> bytes:
    """The metadata file. members: all others; version: of dao_flows; jobflow: of jobflow. Raises CrateError."""
    try:
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise CrateError(INSTALL) from None
    crate = ROCrate(version=VERSION)
    crate.metadata.extra_terms.update(TERMS)
    crate.metadata["conformsTo"] = [{"@id": crate.metadata.profile}, {"@id": list(PROFILES)[-1]}]
    _Builder(crate, history, about, members, version, jobflow).build()
    for entity in crate.get_entities():  # lists that were appended to
        for name in ("hasPart", "mentions"):
            if name in entity:
                entity[name] = _single(entity[name])
    return (json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


class _Builder:
    """Puts the entities into a crate, in a fixed order."""

    def __init__(
        self,
        crate: ROCrate,
        history: History,
        about: About,
        members: Mapping[str, Member],
        version: str,
        jobflow: str,
    ) -> None:
        self.crate, self.history, self.about, self.members = crate, history, about, members
        self.version, self.jobflow = version, jobflow

    def build(self) -> None:
        """All of it."""
        self._root()
        self._files()
        for thing in self.history.things.values():
            self._thing(thing)
        tools = self._tools()
        workflow, steps = self._workflow(tools)
        self._runs(workflow, steps, tools)

    def _add(self, ident: str, kind: str | list[str], **properties: Any) -> Entity:
        from rocrate.model.contextentity import ContextEntity

        kept = {name: _single(value) for name, value in properties.items() if value not in (None, [], "")}
        return self.crate.add(ContextEntity(self.crate, ident, properties={"@type": kind, **kept}))

    def _root(self) -> None:
        root, about = self.crate.root_dataset, self.about
        root["name"], root["description"] = about.name, about.description
        root["datePublished"] = about.published or self.history.latest
        root["license"] = self._licence(about.licence)
        profiles = [
            self._add(ident, "CreativeWork", name=name, version=_last(ident)) for ident, name in PROFILES.items()
        ]
        root["conformsTo"] = profiles
        authors = [
            self._add(f"{ORCID}{orcid}" if orcid else f"#author-{number}", "Person", name=name)
            for number, (name, orcid) in enumerate(about.authors, 1)
        ]
        if authors:
            root["author"] = _single(authors)

    def _licence(self, licence: str) -> Entity:
        """A licence by its SPDX name or its address."""
        if "://" in licence:
            return self._add(licence, "CreativeWork", name=licence, description=f"The licence {licence}")
        address = f"https://spdx.org/licenses/{licence}"
        return self._add(address, "CreativeWork", name=licence, description=f"The licence {licence}, as SPDX names it")

    def _files(self) -> None:
        """Every member as a File."""
        for path in sorted({*self.members, MANIFEST} - {METADATA, WORKFLOW}):
            suffix = f".{path.rsplit('.', 1)[1]}"
            thing = self.history.things.get(path)
            described: dict[str, Any] = {
                "name": thing.name if thing else TITLES.get(path, path),
                "encodingFormat": TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream",
            }
            if path in self.members:
                described |= {"contentSize": str(self.members[path].size), "sha256": self.members[path].sha256}
            if path == README:
                described["about"] = {"@id": "./"}
            self.crate.add_file(dest_path=path, properties=described)

    def _thing(self, thing: Thing) -> None:
        """What is no single file: a checkpoint, a dataset, or something that is not in the crate."""
        if thing.ident in self.members:
            return
        parts = [{"@id": part} for part in thing.parts]
        kind = "Collection" if parts else "Dataset" if thing.kind == "dataset" else "CreativeWork"
        main = parts[0] if parts else None
        entity = self._add(thing.ident, kind, name=thing.name, hasPart=parts, mainEntity=main, sha256=thing.sha256)
        if parts:
            self.crate.root_dataset.append_to("mentions", entity)

    def _tools(self) -> dict[tuple[str, str], Entity]:
        """Each maker at each version."""
        found = sorted({(activity.maker, activity.version) for activity in self.history.activities})
        return {
            (maker, version): self._add(
                f"{PAPER}#{maker}-{version or 'unknown'}",
                "SoftwareApplication",
                name=maker,
                url=PAPER,
                softwareVersion=version or "unknown",
            )
            for maker, version in found
        }

    def _workflow(self, tools: Mapping[tuple[str, str], Entity]) -> tuple[Entity, dict[tuple[str, str], Entity]]:
        """The flow, as the main entity, with a step for each maker."""
        from rocrate.model.computerlanguage import ComputerLanguage

        engine = {"@type": ["ComputerLanguage", "SoftwareApplication"], "name": "jobflow", "url": JOBFLOW}
        language = self.crate.add(ComputerLanguage(self.crate, JOBFLOW, engine | {"version": self.jobflow}))
        order: dict[tuple[str, str], int] = {}
        for activity in self.history.activities:
            order.setdefault((activity.maker, activity.version), len(order) + 1)
        steps = {
            tool: self._add(
                f"{WORKFLOW}#{tool[0]}-{place}",
                "HowToStep",
                name=tool[0],
                position=str(place),
                workExample={"@id": tools[tool].id},
            )
            for tool, place in order.items()
        }
        workflow = self.crate.add_workflow(
            dest_path=WORKFLOW,
            main=True,
            lang=language,
            properties={
                "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
                "name": "The jobs of this crate, as they ran",
                "description": "Each job with its maker, and what it used and made",
                "encodingFormat": "application/json",
                "version": self.version,
                "url": PAPER,
                "conformsTo": self._add(
                    BIOSCHEMAS, "CreativeWork", name="Bioschemas ComputationalWorkflow", version="1.0"
                ),
                "contentSize": str(self.members[WORKFLOW].size),
                "sha256": self.members[WORKFLOW].sha256,
            },
        )
        workflow["hasPart"] = _single(list(tools.values()))
        workflow["step"] = _single(list(steps.values()))
        return workflow, steps

    def _runs(
        self,
        workflow: Entity,
        steps: Mapping[tuple[str, str], Entity],
        tools: Mapping[tuple[str, str], Entity],
    ) -> None:
        """An action for each job, one for the whole, and what binds them to the steps."""
        people: dict[str, Entity] = {}
        controls = []
        for activity in self.history.activities:
            if activity.who is not None and activity.who not in people:
                people[activity.who] = self._add(f"#agent-{len(people) + 1}", "Person", name=activity.who)
            tool = (activity.maker, activity.version)
            action = self._action(activity, tools[tool], people.get(activity.who or ""))
            controls.append(
                self._add(
                    f"#control-{activity.ident}",
                    "ControlAction",
                    name=f"Control of {activity.name}",
                    instrument={"@id": steps[tool].id},
                    object={"@id": action.id},
                )
            )
        made = {ident for activity in self.history.activities for ident in activity.made}
        used = {ident for activity in self.history.activities for ident in activity.used}
        starts = [activity.started for activity in self.history.activities if activity.started]
        whole = self._add(
            "#run",
            "CreateAction",
            name=self.about.name,
            description="All jobs of the crate together",
            instrument={"@id": workflow.id},
            object=_refs(sorted(used - made)),
            result=_refs(sorted(self.history.asked)) or _refs(sorted(made)),
            startTime=min(starts, default=None),
            endTime=self.history.latest,
            agent=[{"@id": person.id} for person in people.values()],
        )
        self.crate.root_dataset.append_to("mentions", whole)
        if controls:
            self._add(
                "#organisation",
                "OrganizeAction",
                name="Execution by jobflow",
                instrument={"@id": JOBFLOW},
                object=[{"@id": control.id} for control in controls],
                result={"@id": whole.id},
                startTime=min(starts, default=None),
                endTime=self.history.latest,
            )

    def _action(self, activity: Activity, tool: Entity, agent: Entity | None) -> Entity:
        failed = activity.error is not None
        action = self._add(
            f"#{activity.ident}",
            "CreateAction",
            name=activity.name,
            description=f"{activity.maker} of dao_flows {activity.version}",
            instrument={"@id": tool.id},
            object=_refs(activity.used),
            result=_refs(activity.made),
            startTime=activity.started,
            endTime=activity.ended,
            agent=None if agent is None else {"@id": agent.id},
            actionStatus=FAILED if failed else COMPLETED,
            error=activity.error,
        )
        self.crate.root_dataset.append_to("mentions", action)
        return action


def _refs(idents: Iterable[str]) -> list[dict[str, str]]:
    return [{"@id": ident} for ident in idents]


def _single(value: Any) -> Any:
    """A list of one as the one, which is how RO-Crate writes it."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _last(address: str) -> str:
    return address.rsplit("/", 1)[1]
