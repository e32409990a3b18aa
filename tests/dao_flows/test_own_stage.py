"""A stage of one's own, one file of an installed package, is run, routed, drawn, verified, replayed and exported."""

import json
import shutil
from pathlib import Path

import pytest
from jobflow import Flow

from dao_flows.api.local import run_logged
from dao_flows.launch.routes import apply_routes, function_of, read_routes, stage_of
from dao_flows.makers.schemas.prediction import ScreeningDoc
from dao_flows.makers.stages.registry import GROUP, stages
from dao_flows.store.stores import collection, job_store

DENSITY = '''
"""Densities of what a screening accepted: a maker, its document, and what it declares."""

from dataclasses import dataclass
from datetime import UTC, datetime

from jobflow import Maker
from pydantic import BaseModel

from dao_flows.makers.jobs.provenance import execution_record, provenance
from dao_flows.makers.jobs.stage import stage
from dao_flows.makers.schemas.document import SCHEMA_VERSION, Provenance, Science
from dao_flows.makers.schemas.prediction import ScreeningDoc
from dao_flows.makers.stages.agreement import Terms
from dao_flows.makers.stages.declaration import Parent, Route, Stage
from dao_flows.makers.stages.rebuilding import Rebuilt, settings


class DensityDoc(BaseModel):
    schema_version: int = SCHEMA_VERSION
    formula: str
    densities: dict[str, float]
    screening_job: str
    provenance: Provenance


@dataclass
class DensityMaker(Maker):
    name: str = "densities"
    digits: int = 6

    def science(self, screening):
        return Science(
            maker="DensityMaker",
            parameters={"digits": self.digits},
            inputs={"screening": screening.provenance.science_hash},
            checkpoints={},
            code_version="1.0",
        )

    @stage(output_schema=DensityDoc)
    def make(self, screening: ScreeningDoc) -> DensityDoc:
        began, screening = datetime.now(UTC), ScreeningDoc.model_validate(screening)
        found = {each.candidate_id: round(float(each.structure.density), self.digits) for each in screening.accepted}
        return DensityDoc(
            formula=screening.accepted[0].formula,
            densities=found,
            screening_job=screening.provenance.execution.job_uuid,
            provenance=provenance(self.science(screening), execution_record(began, "cpu", {})),
        )


def rebuild(recorded, materials, place):
    held = materials.of_science(recorded.science.inputs["screening"], "screening", recorded.document["screening_job"])
    screening = ScreeningDoc.model_validate(held)
    maker = DensityMaker(**settings(DensityMaker, recorded.science))
    return Rebuilt(maker.make(screening), Terms(), maker.science(screening))


STAGE = Stage(
    name="density",
    maker="lab_density:DensityMaker",
    document="lab_density:DensityDoc",
    route=Route(category="cpu", walltime="00:10:00", cores=3),
    colour="#0f4c81",
    label="densities of {formula}",
    parents=(
        Parent("weighed", (("job", "screening_job"), ("science", "provenance.science.inputs.screening"))),
    ),
    rebuild=rebuild,
)
'''


@pytest.fixture
def weighed(stored_home, install, workplace, monkeypatch, call) -> str:
    """The uuid of the job that weighed the screening of a copy of a store, through the embedded store."""
    install("lab_density", DENSITY, f"[{GROUP}]\ndensity = lab_density:STAGE\n")
    shutil.copytree(stored_home / "data", Path.home() / "data", dirs_exist_ok=True)
    from lab_density import DensityMaker

    [found] = job_store().query({"output.@class": "ScreeningDoc"}, load=True)
    job = DensityMaker(digits=4).make(ScreeningDoc.model_validate(found["output"]))
    run_logged(Flow([job], output=job.output), {"formulas": ["NaCl"]})
    return job.uuid


def test_it_is_routed(weighed):
    from lab_density import DensityMaker

    assert list(stages())[-1].kind == "density"
    flow = Flow([DensityMaker().make(None)])
    (job,) = flow.jobs
    assert stage_of(function_of(job)) == "density"
    apply_routes(flow, read_routes(None, ["density.cores=5"]), "slurm")
    manager = job.config.manager_config
    assert (manager["_category"], manager["_queueadapter"]["cpus_per_task"]) == ("cpu", 5)
    assert manager["_queueadapter"]["walltime"] == "00:10:00"


def test_it_is_drawn(weighed, call):
    code, out, err = call("audit", "graph", weighed, "--format", "json")
    assert code == 0, err
    graph = json.loads(out)
    (node,) = (each for each in graph["nodes"] if each["id"] == weighed)
    assert (node["kind"], node["label"]) in {("density", "densities of NaCl"), ("density", "densities of Cr3Os")}
    screening = next(each["node"] for each in graph["nodes"] if each["kind"] == "screening")
    assert [screening, node["node"], "weighed"] in [[*e.values()] if isinstance(e, dict) else e for e in graph["edges"]]
    code, out, err = call("audit", "graph", weighed, "--format", "svg")
    assert (code, "#0f4c81" in out) == (0, True), err


def test_it_is_verified_and_a_change_is_found(weighed, call):
    code, out, _ = call("audit", "verify", "--all")
    assert (code, "altered" in out, "missing" in out) == (0, False, False), out
    jobs = job_store().docs_store
    document = jobs.query_one({"uuid": weighed})
    document["output"]["densities"][next(iter(document["output"]["densities"]))] += 0.1
    jobs.update([document], key=["uuid", "index"])
    code, out, _ = call("audit", "verify", "--all", "--json")
    (finding,) = (each for each in json.loads(out)["findings"] if each["problem"] == "altered")
    assert code != 0
    assert (finding["id"], finding["kind"]) == (f"{weighed}/1", "density")
    assert finding["field"].startswith("output.densities")


def test_what_it_was_made_from_is_missed(weighed, call):
    jobs = job_store().docs_store
    [screening] = jobs.query({"output.@class": "ScreeningDoc"})
    jobs.remove_docs({"uuid": screening["uuid"]})
    _, out, _ = call("audit", "verify", weighed, "--json")
    assert screening["uuid"] in {each["id"].partition("/")[0] for each in json.loads(out)["findings"]}


def test_it_is_replayed(weighed, call):
    code, out, err = call("audit", "replay", weighed)
    assert (code, f"density:{weighed}: identical, bit for bit" in out) == (0, True), out + err


def test_it_is_exported_and_imported_elsewhere(weighed, call, tmp_path, monkeypatch):
    crate = tmp_path / "weighed.zip"
    code, _, err = call("export-crate", weighed, str(crate))
    assert code == 0, err
    document = job_store().query_one({"uuid": weighed}, load=True)
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path / "elsewhere"))
    code, out, err = call("import-crate", str(crate))
    assert code == 0, out + err
    brought = job_store().query_one({"uuid": weighed}, load=True)
    assert brought["output"] == document["output"]
    assert call("audit", "verify", weighed)[0] == 0
    assert collection(job_store(), "runs").count({"job_uuid": weighed})


def test_one_that_cannot_be_loaded_harms_no_other(install, workplace, caplog):
    install("lab_broken", "raise RuntimeError('out of order')\n", f"[{GROUP}]\nbroken = lab_broken:STAGE\n")
    install("lab_odd", "STAGE = 3\n", f"[{GROUP}]\nodd = lab_odd:STAGE\n")
    known = [stage.kind for stage in stages()]
    assert "generation" in known and not {"broken", "odd"} & set(known)
    assert "out of order" in caplog.text and "is no Stage" in caplog.text
