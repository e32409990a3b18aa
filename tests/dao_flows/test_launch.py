"""Launching without a server: routes, the project folder, what is refused, and the LaunchPad on mongomock."""

import json
import os
import stat
from importlib.util import find_spec
from pathlib import Path

import mongomock
import mongomock.gridfs
import pytest
import yaml
from jobflow import Flow, JobStore
from maggma.stores import MemoryStore
from typer.testing import CliRunner

from dao_flows.api.prediction.inputs import Entry
from dao_flows.api.prediction.request import PredictionRequest
from dao_flows.api.pretrain import PretrainConfig, read_config
from dao_flows.cli import app
from dao_flows.errors import InputError, SettingsError, StoreError
from dao_flows.launch import launchpad as launchpad_module
from dao_flows.launch import project, submit
from dao_flows.launch.advice import advise
from dao_flows.launch.control import cancel, rerun
from dao_flows.launch.flows import Planned, predict_flows, pretrain_flows, verify_flows
from dao_flows.launch.patience import wait_for
from dao_flows.launch.progress import status
from dao_flows.launch.routes import CATEGORIES, apply_routes, defaults, function_of, queue_keys, read_routes, stage_of
from dao_flows.makers.generate import GenerateMaker
from dao_flows.makers.label import label_jobs
from dao_flows.makers.models.checkpoints import ParameterError
from dao_flows.makers.predict import PredictFlowMaker
from dao_flows.makers.screen import ScreenMaker
from dao_flows.makers.stages.declaration import Route
from dao_flows.makers.verify import VerifyMaker
from dao_flows.model.data.shards import Manifest, columns, write_manifest, write_shards
from dao_flows.settings import settings
from dao_flows.store import stores

fireworks = pytest.importorskip("fireworks", reason="FireWorks is not installed")
CommonAdapter = pytest.importorskip("fireworks.user_objects.queue_adapters.common_adapter").CommonAdapter
URI = "mongodb://mongo.example/dao"


def empty_launchpad():
    """A LaunchPad of this process alone."""
    mongomock.gridfs.enable_gridfs_integration()
    found = fireworks.LaunchPad(name="test", strm_lvl="ERROR")
    found.connection.close()
    found.connection = mongomock.MongoClient()
    found.db = found.connection["test"]
    for name in ("fireworks", "launches", "offline_runs", "fw_id_assigner", "workflows"):
        setattr(found, name, found.db[name])
    launchpad_module.prepare(found)
    return found


@pytest.fixture
def pad(workplace):
    return empty_launchpad()


def planned(*formulas, **options):
    return predict_flows(
        [Entry(formula) for formula in formulas], settings(), PredictionRequest(n=2, steps=2, **options)
    )


def routes_of(flow):
    return {job.name: job.config.manager_config.get("_category") for job, _ in flow.iterflow()}


def test_every_job_of_our_flows_has_a_route(workplace):
    config = PretrainConfig(
        name="mine", sources=["a.parquet"], predictor={"steps": 1}, stage_one={"steps": 1}, stage_two={"steps": 1}
    )
    (workplace / "a.parquet").touch()
    pretraining = config.maker().make(["a.parquet"], str(workplace))
    flows = [PredictFlowMaker(verify=VerifyMaker(backend="forcefield")).make("NaCl"), pretraining]
    for flow in flows:
        assert {stage_of(function_of(job)) for job, _ in flow.iterflow()} <= set(defaults())
        apply_routes(flow, read_routes(None), "slurm")
    assert routes_of(flows[0]) == {"generate": "gpu", "screen": "gpu", "verify": "cpu"}
    assert routes_of(flows[1])["ingest"] == routes_of(flows[1])["compare stages"] == "cpu"
    gpu_jobs = [job for flow in flows for job, _ in flow.iterflow() if job.config.manager_config["_category"] == "gpu"]
    assert len(gpu_jobs) == 8
    assert all(job.config.manager_config["_queueadapter"]["gres"] == "gpu:1" for job in gpu_jobs)


def test_calculations_go_to_their_own_workers_though_another_job_starts_them(workplace):
    """The flow that the verification job starts, as its worker makes it."""
    generate = GenerateMaker(checkpoint="dao-g-tiny", predictor="dao-p-tiny", candidates=8, steps=4, z=2)
    maker = VerifyMaker(backend="forcefield", top=1)
    flow = PredictFlowMaker(generate=generate, screen=ScreenMaker(predictor="dao-p-tiny"), verify=maker).make("NaCl")
    apply_routes(flow, read_routes(None, ["calculate.cores=3", "calculate.walltime=01:30:00"]), "slurm")
    generation, screening, verification = [job for job, _ in flow.iterflow()]
    store = JobStore(MemoryStore())
    store.connect()
    for job in (generation, screening):
        job.run(store)
    started = verification.run(store).replace
    configs = {job.name: job.config.manager_config for job, _ in started.iterflow()}
    calculations = [configs.pop(name) for name in list(configs) if name.startswith(("relax ", "static "))]
    assert calculations
    for config in calculations:
        assert config["_category"] == "dft"
        assert config["_queueadapter"] == {"nodes": 1, "walltime": "01:30:00", "ntasks": 3}
    assert {config["_category"] for config in configs.values()} == {"cpu"}


@pytest.mark.skipif(find_spec("chgnet") is None, reason="nothing is labelled without CHGNet")
def test_labelling_jobs_go_where_the_job_that_starts_them_went(workplace):
    """One a shard and their merge, as a worker makes them."""
    folder = workplace / "crystals"
    shards, counts = write_shards(folder, [{"split": "train"}] * 3, columns(), 1)
    write_manifest(folder, Manifest("three", columns(), shards, dict(counts), "0"))
    flow = Flow([label_jobs(str(folder), str(workplace / "labels"))])
    apply_routes(flow, read_routes(None, ["label.walltime=02:00:00"]), "slurm")
    assert {stage_of(function_of(job)) for job, _ in flow.iterflow()} == {"label"}
    store = JobStore(MemoryStore())
    store.connect()
    (starting,) = (job for job, _ in flow.iterflow())
    started = [job for job, _ in starting.run(store).replace.iterflow() if job.uuid != starting.uuid]
    assert [job.name for job in started] == ["label shard 0", "label shard 1", "label shard 2", "merge labels"]
    for job in started:
        assert stage_of(function_of(job)) in ("label", "merge")
        assert job.config.manager_config["_category"] == "gpu"
        assert job.config.manager_config["_queueadapter"]["walltime"] == "02:00:00"


def test_routes_can_be_changed_by_file_and_by_flow(tmp_path):
    path = tmp_path / "routes.yaml"
    path.write_text("screen: {category: cpu}\ncalculate: {cores: 16, walltime: 24:00:00}\n")  # YAML 1.1: 86400
    found = read_routes(path, ["calculate.cores=8", "screen.walltime=00:30:00"])
    assert found["calculate"] == Route(category="dft", cores=8, walltime="24:00:00")
    assert found["screen"] == Route(category="cpu", walltime="00:30:00")  # and no GPU
    assert read_routes(None)["screen"].category == "gpu"


@pytest.mark.parametrize(
    ("change", "said"),
    [("screen", "STAGE.WHAT"), ("scren.cores=1", "there is no stage"), ("screen.cores=0", "screen.cores")],
)
def test_a_change_that_cannot_be_says_why(change, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_routes(None, [change])
    (tmp_path / "routes.yaml").write_text("screen: cpu\n")
    with pytest.raises(SettingsError, match=r"routes\.yaml"):
        read_routes(tmp_path / "routes.yaml")


def test_each_queue_system_is_asked_in_its_own_words(workplace):
    route = Route(category="gpu", gpus=2, cores=4, walltime="01:30:30")
    asked = {queue: queue_keys(route, queue) for queue in ("slurm", "pbs", "lsf", "none")}
    assert asked["slurm"] == {"nodes": 1, "walltime": "01:30:30", "ntasks": 1, "cpus_per_task": 4, "gres": "gpu:2"}
    assert asked["pbs"] == {"nnodes": 1, "ppnode": "4:gpus=2", "walltime": "01:30:30"}
    assert asked["lsf"] == {"ntasks": 4, "walltime": "1:31", "gpus": 2}  # -W takes no seconds
    assert asked["none"] == {}
    wanted = {
        "slurm": ("#SBATCH --gres=gpu:1", "#SBATCH --partition=fast", "#SBATCH --account=grant"),
        "pbs": ("#PBS -l nodes=1:ppn=1:gpus=1", "#PBS -q fast", "#PBS -A grant"),
        "lsf": ("#BSUB -gpu num=1", "#BSUB -q fast", "#BSUB -P grant", "#BSUB -W 4:00"),
    }
    for queue, lines in wanted.items():
        folder = workplace / queue
        project.write(project.Project(folder, URI, queue, {"gpu": "fast"}, "grant"))
        adapter = CommonAdapter.from_dict(yaml.safe_load((folder / "qadapter_gpu.yaml").read_text()))
        script = adapter.get_script_str(str(folder))
        assert set(lines) <= set(script.splitlines())
        assert "$$" not in script


def test_credentials_stand_in_private_files_alone_and_no_file_is_half_there(workplace):
    secret = "p1anted-s3cret"
    uri = f"mongodb://user:{secret}@mongo.example/"
    before = os.umask(0)
    try:
        files = project.write(project.Project(workplace / "p", uri, "slurm"))
    finally:
        os.umask(before)
    assert sorted(path.name for path in files) == sorted(path.name for path in (workplace / "p").iterdir())
    private = {path.name for path in files if secret in path.read_text()}
    assert private == {"jobflow.yaml", "my_launchpad.yaml"}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert {modes[name] for name in private} == {0o600}
    texts = {path.name: path.read_text() for path in files}
    with pytest.raises(InputError, match="--force"):
        project.write(project.Project(workplace / "p", URI, "none"))
    assert {path.name: path.read_text() for path in files} == texts
    files = project.write(project.Project(workplace / "p", URI, "none"), force=True)
    assert {path.name for path in files} == {path.name for path in (workplace / "p").iterdir()}
    assert secret not in (workplace / "p" / "jobflow.yaml").read_text()


def test_a_folder_that_cannot_be_written_is_named(workplace):
    (workplace / "file").touch()
    with pytest.raises(InputError, match="file/p cannot be written: Not a directory"):
        project.write(project.Project(workplace / "file" / "p", URI))


def test_init_says_what_is_wrong_with_a_server_that_is_not_there(workplace, call, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_STORE_TIMEOUT", "0.3")
    code, out, _ = call("init", "p", "--mongo-uri", "mongodb://user:s3cretword@127.0.0.1:9/dao", "--yes")
    wrong = [line for line in out.splitlines() if line.startswith("WRONG")]
    assert code == 1
    assert [line.split(":")[0] for line in wrong] == ["WRONG LaunchPad", "WRONG results"]
    assert "s3cretword" not in out
    assert call("init", "p", "--check")[0] == 1
    assert call("init", "q", "--yes")[0] == 2  # no URI
    assert call("init", "q", "--yes", "--mongo-uri", "localhost")[0] == 2
    assert not (workplace / "q").exists()


def test_init_asks_for_what_is_not_given(workplace, monkeypatch):
    monkeypatch.setenv("DAO_FLOWS_STORE_TIMEOUT", "0.3")
    answers = ["mongodb://me:s3cretword@127.0.0.1:9/dao", "lsf", "fast", "", "small", "grant", "8"]
    done = CliRunner().invoke(app, ["init", "p"], input="\n".join(answers) + "\n")
    assert done.exit_code == 1, done.output  # no server, no bsub
    assert "bsub is not on the PATH" in done.output
    assert "s3cretword" not in done.output
    adapters = {name: yaml.safe_load((workplace / "p" / f"qadapter_{name}.yaml").read_text()) for name in CATEGORIES}
    assert {name: adapter["queue"] for name, adapter in adapters.items()} == {
        "gpu": "fast",
        "dft": None,
        "cpu": "small",
    }
    assert {adapter["account"] for adapter in adapters.values()} == {"grant"}
    assert read_routes(workplace / "p" / "routes.yaml")["calculate"].cores == adapters["dft"]["ntasks"] == 8


def test_the_embedded_store_is_refused_with_what_to_set_up(workplace, call):
    code, _, err = call("submit", "predict", "NaCl")
    assert code == 2
    assert "dao-flows init" in err
    with pytest.raises(StoreError, match="embedded"):
        submit.open_for_submission(settings())


def test_no_launchpad_is_said_in_a_line(workplace, call, monkeypatch):
    monkeypatch.setenv("FW_CONFIG_FILE", str(workplace / "none.yaml"))
    code, _, err = call("status")
    assert (code, err.count("\n")) == (2, 1)
    assert "none.yaml" in err


def test_a_flow_is_submitted_once_unless_again(pad):
    first = submit.submit(planned("NaCl"), pad, read_routes(None), "slurm").flows
    second = submit.submit(planned("NaCl", "MgO"), pad, read_routes(None), "slurm").flows  # another batch
    same = submit.submit(planned("NaCl"), pad, read_routes(None), "slurm").flows
    again = submit.submit(planned("NaCl"), pad, read_routes(None), "slurm", again=True).flows
    assert [flow[0].new for flow in (first, second, same, again)] == [True, True, False, True]
    assert same[0].model_copy(update={"new": True}) == first[0]
    assert again[0].key == first[0].key
    assert pad.workflows.count_documents({}) == 3
    assert pad.fireworks.count_documents({}) == 6
    pad.delete_wf(first[0].flow)  # of the two the later is left: a third gets a number of its own
    assert submit.submit(planned("NaCl"), pad, read_routes(None), "slurm", again=True).flows[0].new


def test_a_submission_that_a_kill_cut_short_is_made_anew(pad, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pad.fireworks, "insert_many", kill)
        with pytest.raises(Killed):
            submit.submit(planned("NaCl"), pad, read_routes(None), "none")
    assert (pad.workflows.count_documents({}), pad.fireworks.count_documents({})) == (1, 0)
    waits = []

    def later(seconds):  # it may just be on its way
        waits.append(seconds)
        if len(waits) == 3:
            pad.workflows.update_one({}, {"$set": {"created_on": "2020-01-01T00:00:00+00:00"}})

    monkeypatch.setattr(submit.time, "sleep", later)
    assert submit.submit(planned("NaCl"), pad, read_routes(None), "none").flows[0].new
    assert len(waits) == 3
    assert (pad.workflows.count_documents({}), pad.fireworks.count_documents({})) == (1, 2)


def test_a_large_flow_is_refused_before_anything_is_submitted(pad):
    good, large = planned("NaCl")[0], planned("MgO")[0]
    large.flow.jobs[0].function_args = (["MgO"] * 200_000,)
    with pytest.raises(ParameterError, match=r"'generate' of MgO would be \d\.\d MB"):
        submit.submit([good, large], pad, read_routes(None), "none")
    assert pad.workflows.count_documents({}) == 0


@pytest.mark.parametrize("planted", ["mongodb://mongo.example/dao", "https://me:hidden@host/x", "k3y-of-my-database"])
def test_credentials_in_a_job_are_refused(pad, monkeypatch, planted):
    monkeypatch.setenv("MP_API_KEY", "k3y-of-my-database")
    flow = planned_of(planted)
    with pytest.raises(ParameterError, match="'generate' of x would carry") as error:
        submit.submit([flow], pad, read_routes(None), "none")
    assert planted not in str(error.value)
    assert pad.fireworks.count_documents({}) == 0


WORDS = ("dao_flows", "generate", "renoising", "GenerateMaker", "MgO2CaTi3", "2026-11-27", "dao_flows.makers")


@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_is_somebodys_password_refuses_no_job(pad, monkeypatch, word):
    monkeypatch.setenv("DB_PASSWORD", word)
    monkeypatch.setenv("CI_TOKEN", word)
    flows = [planned("NaCl")[0], planned_of(f"/data/{word}/x.json")]
    assert len(submit.submit(flows, pad, read_routes(None), "none").flows) == 2


@pytest.mark.parametrize(
    "argument",
    [
        "mp:?api_key=generate",
        {"password": "generate"},
        {"deep": [{"auth_token": "of-a-service-that-the-environment-does-not-know"}]},
        "https://ada:generate@host/x",
        '{"db_password": "generate"}',
    ],
)
def test_a_word_that_stands_as_a_password_refuses_the_job(pad, monkeypatch, argument):
    monkeypatch.setenv("DB_PASSWORD", "generate")
    with pytest.raises(ParameterError, match="'generate' of x would carry") as error:
        submit.submit([planned_of(argument)], pad, read_routes(None), "none")
    assert "service" not in str(error.value)
    assert pad.fireworks.count_documents({}) == 0


def planned_of(argument):
    flow = planned("NaCl")[0].flow
    flow.jobs[0].function_args = (argument,)
    return Planned("predict", "key", "x", flow)


def test_checkpoints_go_by_their_hash_and_the_store_not_at_all(pad):
    submit.submit(planned("NaCl"), pad, read_routes(None), "slurm")
    for document in pad.fireworks.find():
        task = document["spec"]["_tasks"][0]
        bound = task["job"]["function"]["@bound"]
        assert task["store"] is None
        named = [bound[role] for role in ("checkpoint", "predictor") if bound.get(role)]
        assert named and all(len(name) == 64 for name in named)
        assert set(document["spec"]) >= {"_category", "_queueadapter", "dao_flows"}


def test_verifications_and_pretrainings_are_submitted_too(stored):
    pad = empty_launchpad()
    candidates = stores.collection(stores.job_store(), "candidates")
    ids = candidates.distinct("candidate_id")[:2]

    def flows():
        pretraining = read_config(Path(__file__).parents[2] / "examples" / "pretrain_small.yaml")
        return [*verify_flows(ids, candidates, VerifyMaker(backend="forcefield")), *pretrain_flows(pretraining)]

    first = submit.submit(flows(), pad, read_routes(None), "slurm").flows
    assert [flow.kind for flow in first] == ["verify", "verify", "pretrain"]
    assert not any(flow.new for flow in submit.submit(flows(), pad, read_routes(None), "slurm").flows)
    found = status(pad)
    routes = {stage.stage: stage.category for stage in found.stages}
    assert (
        routes.items() >= {"calculate": "dft", "verify": "cpu", "ingest": "cpu", "train": "gpu", "relax": "gpu"}.items()
    )
    assert sum(flow.jobs for flow in found.flows) == pad.fireworks.count_documents({})


def test_status_rerun_and_cancel(pad):
    flow = submit.submit(planned("NaCl"), pad, read_routes(None), "slurm").flows[0]
    worker = fireworks.FWorker("w", category="gpu")
    assert pad.checkout_fw(fireworks.FWorker("w", category="cpu"), "/tmp") == (None, None)
    job, launch = pad.checkout_fw(worker, "/somewhere")
    said = {"_exception": {"_stacktrace": "Traceback\n  a\nValueError: mongodb://me:secret@host is away\n"}}
    pad.complete_launch(launch, fireworks.FWAction(stored_data=said), "FIZZLED")
    found = status(pad, str(flow.flow))
    assert [(stage.stage, stage.category, stage.states) for stage in found.stages] == [
        ("generate", "gpu", {"FIZZLED": 1}),
        ("screen", "gpu", {"WAITING": 1}),
    ]
    assert found.failures[0].directory.endswith(":/somewhere")
    assert found.failures[0].lines[-1] == "ValueError: mongodb://***@host is away"
    assert rerun(pad) == [job.fw_id]
    assert pad.get_fw_dict_by_id(job.fw_id)["state"] == "READY"
    assert len(pad.get_fw_dict_by_id(job.fw_id)["archived_launches"]) == 1
    assert cancel(pad, str(flow.flow)).jobs == flow.jobs
    assert not pad.run_exists()
    assert rerun(pad) == []
    assert rerun(pad, str(flow.flow)) == flow.jobs
    assert pad.run_exists(worker)
    with pytest.raises(InputError, match="no flow"):
        status(pad, "4711")
    assert json.loads(found.model_dump_json())["flows"][0]["flow"] == flow.flow


@pytest.mark.parametrize("name", ["predict", "verify", "pretrain"])
def test_submit_takes_the_arguments_of_the_local_command(call, name):
    import inspect

    from dao_flows.cli import launch, predict, pretrain, verify

    local = {"predict": predict.predict, "verify": verify.verify, "pretrain": pretrain.pretrain}[name]
    command = next(c.callback for c in launch.submit_app.registered_commands if c.name == name)
    assert set(inspect.signature(local).parameters) - launch.LOCAL_ONLY <= set(inspect.signature(command).parameters)
    assert call("submit", name, "--help")[0] == 0


@pytest.mark.parametrize(
    ("last", "says"),
    [
        ("OSError: [Errno 28] No space left on device: 'FW.json'", "no space is left"),
        ("pymongo.errors.DocumentTooLarge: 'update' command document too large", "larger than the 16 MB"),
        ("pymongo.errors.WriteError: 1 documents could not be written: BSONObj size: 17000053 is invalid", "16 MB"),
        ("pymongo.errors.WriteError: Resulting document after update is larger than 16777216", "16 MB"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out of memory"),
        ("__main__.Stopped: the worker was ended (SIGTERM), as a queue does when the wall time is over", "wall time"),
        ("pymongo.errors.ServerSelectionTimeoutError: mongo:27017: timed out", "away for too long"),
        ("dao_flows.model.checkpoint.format.CheckpointError: there is no checkpoint 'a'", "on the nodes"),
        ("KeyError: 'space'", None),
        ("", None),
    ],
)
def test_a_failures_advice_goes_by_the_last_line_of_its_traceback(last, says):
    trace = f"Traceback (most recent call last):\n  File 'x', line 1, in f\n    No space left on device\n{last}\n"
    found = advise(trace)
    assert found is None if says is None else says in found


def test_only_a_server_that_is_away_is_waited_for_and_not_for_ever(capsys):
    pymongo = pytest.importorskip("pymongo")
    away = pymongo.errors.AutoReconnect("mongo.example:27017: closed (configured timeouts: 20000.0ms)")
    answers = [away, away, "done"]

    def operation():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(operation, seconds=60) == "done"
    first, second = capsys.readouterr().err.splitlines()
    assert first == "dao-flows: the database does not answer, waiting for up to 1 min: mongo.example:27017: closed"
    assert second.startswith("dao-flows: the database answers again after ")
    for seconds, error in ((60, pymongo.errors.DuplicateKeyError("E11000")), (0.3, away), (60, KeyError("a"))):
        answers += [error] * 10
        with pytest.raises(type(error)):
            wait_for(operation, seconds)
        answers.clear()
    capsys.readouterr()
    answers += [away, StopIteration()]  # a cursor without documents
    with pytest.raises(StopIteration):
        wait_for(operation, 60)
    assert "answers again" in capsys.readouterr().err
