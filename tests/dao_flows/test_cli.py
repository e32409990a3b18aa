"""The command line in this process: what it prints, where, and with which exit code."""

import json
import shutil
import signal
from importlib.util import find_spec

import pytest

from dao_flows import __version__
from dao_flows.makers.screening import judge as judge_module
from dao_flows.model.checkpoint.format import load, read_card, save
from dao_flows.model.checkpoint.library import find
from dao_flows.model.files.user_folders import CHECKPOINTS
from dao_flows.store import stores

SECRET = "s3cr3t-pa55"
BAD_INPUT = {
    "an unknown element": (["Xx2O"], "unknown element Xx"),
    "an amount of zero": (["NaCl0"], "zero"),
    "a fractional amount": (["Na0.5Cl"], "fractional"),
    "a negative amount": (["Na-1Cl"], "positive"),
    "no formula": ([""], "empty"),
    "an element not seen": (["UO2"], "H-Bi"),
    "a cell too large": (["NaCl", "--z", "40"], "at most 20 atoms"),
    "a negative n": (["NaCl", "-n", "-3"], "-n"),
    "an n of zero": (["NaCl", "-n", "0"], "-n"),
    "a Z of zero": (["NaCl", "--z", "0"], "positive whole number"),
    "a negative seed": (["NaCl", "--seed", "-1"], "seed"),
    "too many steps": (["NaCl", "--steps", "100000"], "steps"),
    "two precisions": (["NaCl", "--bf16", "--auto-bf16"], "exclude each other"),
    "a checkpoint that is not there": (["NaCl", "--checkpoint", "nope"], "dao-g-tiny"),
    "a checkpoint of the other kind": (["NaCl", "--checkpoint", "dao-p-tiny"], "DAO-G"),
    "a device that is not there": (["NaCl", "--device", "tpu9"], "tpu9"),
    "an option that is not there": (["NaCl", "--bogus"], "--bogus"),
    "a file that is not there": (["--input", "nowhere.txt"], "nowhere.txt"),
    "a place that cannot be written": (["NaCl", "--out", "/proc/nowhere"], "/proc/nowhere"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_line_and_leaves_nothing(workplace, call, case):
    arguments, words = BAD_INPUT[case]
    code, out, err = call("predict", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("dao-flows: ")
    assert err.count("\n") == 1
    assert words in err
    assert list(workplace.iterdir()) == []
    store = stores.job_store()
    assert store.count() == stores.collection(store, "runs").count() == 0


def test_all_bad_lines_of_a_file_are_named_with_their_place(workplace, call):
    (workplace / "f.csv").write_text("name,formula,z\na,NaCl,2\nb,Na0.5Cl,\nc,,1\nd,MgO,x\ne,UO2,1\n")
    code, out, err = call("predict", "--input", "f.csv")
    assert (code, out) == (2, "")
    assert "4 of 5 formulas" in err
    assert [line.split(": ")[0].strip() for line in err.splitlines()[1:]] == [f"f.csv:{n}" for n in (3, 4, 5, 6)]


def test_a_damaged_checkpoint_is_refused(workplace, tmp_path, tiny_checkpoints, monkeypatch, call):
    shutil.copytree(tiny_checkpoints, tmp_path / "checkpoints")
    weights = tmp_path / "checkpoints" / "dao-g-tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    monkeypatch.setenv(CHECKPOINTS, str(tmp_path / "checkpoints"))
    for command in (["predict", "NaCl"], ["checkpoint", "verify"]):
        code, _, err = call(*command)
        assert code == 2
        assert "damaged" in err
        assert err.count("\n") == 1
    code, out, _ = call("doctor")
    assert code == 1
    assert "damaged" in out


@pytest.mark.parametrize("key", ["uri", "host"])  # pymongo takes a URI as the host too
def test_an_unreachable_store_is_named_without_its_credentials(workplace, monkeypatch, call, key):
    uri = f"mongodb://alice:{SECRET}@127.0.0.1:9/db"
    spec = f"{{type: MongoStore, {key}: '{uri}', database: db, collection_name: jobs}}"
    (workplace / "jobflow.yaml").write_text(f"JOB_STORE: {{docs_store: {spec}}}\n")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", "jobflow.yaml")
    monkeypatch.setenv("DAO_FLOWS_STORE_TIMEOUT", "0.2")
    for command in (
        ["predict", "NaCl"],
        ["list"],
        ["show", "dao-1"],
        ["list", "--traceback"],
        ["doctor"],
        ["doctor", "--json"],
    ):
        code, out, err = call(*command)
        assert code == (1 if command[0] == "doctor" else 2)
        assert "127.0.0.1:9" in out + err
        assert SECRET not in out + err
        assert "Traceback" in err or "--traceback" not in command
    assert call("list")[2].count("\n") == 1


def test_a_mistaken_key_in_the_configuration_shows_no_secret(workplace, monkeypatch, call):
    spec = f"{{type: MongoStore, passwrd: {SECRET}, database: db, collection_name: jobs}}"
    (workplace / "jobflow.yaml").write_text(f"JOB_STORE: {{docs_store: {spec}}}\n")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", "jobflow.yaml")
    code, out, err = call("list", "--traceback")
    assert code == 2
    assert "passwrd" in err
    assert SECRET not in out + err


def test_predict_prints_a_table_and_writes_files(workplace, call):
    code, out, err = call("predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--top", "2")
    assert code == 0
    assert err == ""
    files = sorted((workplace / "dao-NaCl").iterdir())
    assert len(files) == 2
    for name in (
        "space group",
        "E_hull",
        "Å³/atom",
        "by Z: 2: 5",
        "rejected",
        "dao-NaCl",
        str(stores.settings().data_dir),
    ):
        assert name in out
    assert all(path.stem.split("_")[-1] in out for path in files)
    assert call("predict", "NaCl", "-n", "5", "--z", "2", "--steps", "4", "--top", "2")[0] == 0
    assert sorted((workplace / "dao-NaCl").iterdir()) == files, "the same command writes the same files"
    assert [path.name for path in workplace.iterdir()] == ["dao-NaCl"]


def test_json_is_all_there_is_on_stdout(workplace, call):
    code, out, _ = call("predict", "NaCl", "MgO", "-n", "3", "--z", "2", "--steps", "4", "--json", "--out", "cif")
    result = json.loads(out)
    assert code == 0
    assert [c["formula"] for c in result["compositions"]] == ["NaCl", "MgO"]
    assert len(result["files"]) == sum(len(c["ranked"]) for c in result["compositions"])


def test_many_compositions_show_the_best_of_each(workplace, call):
    formulas = [f"Na{i}Cl" for i in range(1, 12)]
    code, out, _ = call("predict", *formulas, "-n", "1", "--z", "1", "--steps", "40")
    assert code == 0
    assert "11 compositions, 11 candidates" in out
    assert "no candidate passed for" in out or "E_hull" in out


def test_list_shows_what_an_earlier_process_stored(stored, call):
    code, out, _ = call("list", "--json", "--limit", "0")
    everything = json.loads(out)
    assert code == 0
    assert {doc["formula"] for doc in everything} == {"NaCl", "Cr3Os"}
    _, out, _ = call("list", "--formula", "ClNa", "--limit", "2", "--json")
    salts = sorted((d for d in everything if d["formula"] == "NaCl"), key=lambda d: d["energy"]["value"])
    assert json.loads(out) == salts[:2]
    _, out, _ = call("list", "--limit", "3")
    assert f"3 of {len(everything)} candidates" in out
    assert call("list", "--formula", "Xx")[0] == 2
    _, out, _ = call("list", "--formula", "MgO")
    assert "no candidates of MgO" in out


def test_list_runs(stored, call):
    code, out, _ = call("list", "--runs", "--json")
    (run,) = json.loads(out)
    assert (code, run["outcome"], run["request"]["formulas"]) == (0, "finished", ["NaCl", "Cr3Os"])
    assert run["run_id"] in call("list", "--runs")[1]


def test_show_and_export_take_ids_and_their_beginnings(stored, tmp_path, call):
    ids = [doc["candidate_id"] for doc in json.loads(call("list", "--json")[1])]
    code, out, _ = call("show", ids[0])
    assert code == 0
    for words in ("generation", "screening", "science hash", "seed", "energy above hull"):
        assert words in out
    assert json.loads(call("show", ids[0], "--json")[1])["candidate_id"] == ids[0]
    code, out, _ = call("export", *ids[:2], "--format", "poscar", "--out", str(tmp_path / "poscar"))
    assert code == 0
    assert len(list((tmp_path / "poscar").glob("*.vasp"))) == len(out.splitlines()) == 2
    assert call("export", ids[0], "--out", str(tmp_path / "a.cif"))[0] == 0
    assert (tmp_path / "a.cif").read_text() == call("export", ids[0], "--out", "-")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "dao-nothere"], "dao-flows list"),
        (["export", "dao-nothere"], "dao-flows list"),
        (["export", "ID", "--format", "xyz"], "cif, poscar, json"),
        (["export", "ID", "ID2", "--out", "-"], "folder"),
        (["export", "ID", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["export", "ID", "dao-nothere", "--out", "new"], "dao-nothere"),
    ],
)
def test_what_cannot_be_shown_or_exported(stored, call, arguments, words):
    ids = [doc["candidate_id"] for doc in json.loads(call("list", "--json")[1])]
    named = [{"ID": ids[0], "ID2": ids[1]}.get(argument, argument) for argument in arguments]
    code, out, err = call(*named)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (stored / "new").exists()


def test_build_lays_out_flows_that_ran_elsewhere(stored, tmp_path, monkeypatch, call):
    documents = list(stores.job_store().query())
    total = stores.collection(stores.job_store(), "candidates").count()
    monkeypatch.setenv("DAO_FLOWS_DATA_DIR", str(tmp_path))
    stores.job_store().update(documents)
    assert call("build")[1].startswith(f"{total} new")
    assert call("build")[1].startswith("0 new")


def test_checkpoints(workplace, call):
    code, out, _ = call("checkpoint", "list", "--json")
    cards = {card["name"]: card for card in json.loads(out)}
    assert code == 0
    assert {"dao-g-tiny", "dao-p-tiny"} <= cards.keys()
    assert "dao-g-tiny" in call("checkpoint", "list")[1]
    assert json.loads(call("checkpoint", "show", "dao-g-tiny")[1])["sha256"] == cards["dao-g-tiny"]["sha256"]
    code, out, _ = call("checkpoint", "verify", "dao-g-tiny", cards["dao-p-tiny"]["sha256"][:10])
    assert code == 0
    assert out.count("intact") == 2
    for command in (
        ["show", "nope"],
        ["verify", "nope"],
        ["import", "nope.ckpt"],
        ["import", "nope.ckpt", "--name", "../x"],
    ):
        code, out, err = call("checkpoint", *command)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1


def test_a_checkpoints_ancestry_is_shown(workplace, call, tmp_path):
    judge = read_card(find("dao-p-tiny"))
    data = {"name": "relaxed", "sha256": "1" * 64, "rows": 1200, "parent": "2" * 64, "sources": [{"name": "WBM"}]}
    data["made_by"] = {"maker": "RelaxDatasetMaker", "checkpoints": {"predictor": judge.sha256}}
    model, card = load(find("dao-g-tiny"))
    fields = {"elements": [1], "max_atoms": 2, "parent": "f" * 64, "training": {"data": data}}
    save(tmp_path / "child", model, fields)
    code, out, _ = call("checkpoint", "show", str(tmp_path / "child"), "--tree")
    assert code == 0
    for said in (
        "1,200 crystals",
        "from WBM",
        "by RelaxDatasetMaker",
        "ffffffffffff  (not in the library)",
        "dao-p-tiny",
    ):
        assert said in out
    assert "predictor of its data" in out
    assert card.sha256[:12] in out  # the same weights, the same identity


def test_what_is_no_checkpoint_is_not_imported(workplace, tiny_checkpoints, call):
    (workplace / "x.ckpt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.")
    code, _, err = call("checkpoint", "import", "x.ckpt")
    assert code == 2
    assert err.count("\n") == 1
    assert not (workplace / "executed").exists()
    assert not (tiny_checkpoints / "x").exists()


def test_doctor_is_content_where_predict_can_run_and_names_what_is_missing(workplace, call, monkeypatch):
    code, out, _ = call("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)}
    assert code == 0
    assert checks["store"]["status"] == checks["device"]["status"] == "ok"
    assert checks["checkpoint dao-g-tiny"]["status"] == checks["library known"]["status"] == "ok"
    monkeypatch.setenv("PATH", "")
    _, out, _ = call("doctor", "--json")
    codes = {check["name"]: check for check in json.loads(out) if check["name"] in ("abinit", "cp2k", "vasp", "slurm")}
    assert len(codes) == 4
    assert all(check["status"] == "missing" and check["fix"] for check in codes.values())
    monkeypatch.setenv("DAO_FLOWS_PREDICTOR", "nope")
    code, out, _ = call("doctor")
    assert code == 1
    assert "nope" in out
    monkeypatch.delenv("DAO_FLOWS_PREDICTOR")
    libraries = workplace / "libraries"  # a folder "./known" would be the library that is meant
    monkeypatch.setenv("DAO_FLOWS_LIBRARY_DIR", str(libraries))
    (libraries / "known").mkdir(parents=True)
    (libraries / "known" / "index.json").write_text("{")
    code, out, _ = call("doctor", "--json")
    (library,) = (check for check in json.loads(out) if check["name"] == "library known")
    assert (code, library["status"]) == (1, "broken") and "is no dataset" in library["detail"]


def test_doctor_tells_of_the_judge(workplace, call, monkeypatch):
    def told(judge: str) -> tuple[int, dict[str, str]]:
        monkeypatch.setenv("DAO_FLOWS_JUDGE", judge)
        code, out, _ = call("doctor", "--json")
        return code, next(check for check in json.loads(out) if check["name"] == "judge")

    assert told("none") == (
        0,
        {"name": "judge", "status": "ok", "detail": "none: candidates are ranked by agreement"} | {"fix": None},
    )
    code, check = told("NoSuchField")
    assert (code, check["status"]) == (1, "broken")
    assert "NoSuchField" in check["detail"] and "DAO_FLOWS_JUDGE" in check["fix"]
    monkeypatch.setattr(judge_module, "find_spec", lambda name: None)
    code, check = told("auto")
    assert (code, check["status"], check["fix"]) == (0, "missing", "pip install 'dao-flows[forcefields]'")
    if find_spec("chgnet"):
        code, check = told("CHGNet")
        assert (code, check["status"], check["detail"].split()[0]) == (0, "ok", "CHGNet")


def test_a_setting_that_cannot_be_used_is_named(workplace, monkeypatch, call):
    monkeypatch.setenv("DAO_FLOWS_BATCH_CANDIDATES", "many")
    code, _, err = call("predict", "NaCl")
    assert code == 2
    assert "DAO_FLOWS_BATCH_CANDIDATES" in err
    code, out, _ = call("doctor")
    assert code == 1
    assert "DAO_FLOWS_BATCH_CANDIDATES" in out


def test_our_own_errors_point_to_the_traceback(workplace, monkeypatch, call):
    monkeypatch.setattr(stores, "job_store", lambda: 1 / 0)
    code, _, err = call("list")
    assert code == 1
    assert err.count("\n") == 1
    assert "--traceback" in err
    assert "Traceback" in call("list", "--traceback")[2]
    monkeypatch.setenv("DAO_FLOWS_DEBUG", "1")
    assert "Traceback" in call("list")[2]


@pytest.mark.parametrize(("work_goes_on", "expected"), [(False, 130), (True, 0)])
def test_an_interrupt_that_a_library_hides_ends_any_command(
    workplace, monkeypatch, heeds_signals, call, work_goes_on, expected
):
    job_store = stores.job_store

    def interrupted():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if not work_goes_on:
                raise RuntimeError("generator didn't stop") from None
        return job_store()

    monkeypatch.setattr(stores, "job_store", interrupted)
    code, _, err = call("list")
    assert code == expected
    assert ("dao-flows: interrupted\n" in err) is not work_goes_on
    assert "unexpected" not in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_version_and_help(workplace, call):
    assert call("--version")[:2] == (0, f"dao-flows {__version__}\n")
    for command in (
        (),
        ("predict",),
        ("list",),
        ("show",),
        ("export",),
        ("build",),
        ("doctor",),
        ("checkpoint", "import"),
    ):
        code, out, _ = call(*command, "--help")
        assert code == 0
        assert "dao-flows" in out.split("Usage:", 1)[1].split("\n", 1)[1], "there is an example"
