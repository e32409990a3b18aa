"""Settings of libraries that cannot be used get one line with the file's name, and none of what they hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dao_flows.configuration import JOBFLOW, described, fault
from dao_flows.errors import explain
from dao_flows.launch.launchpad import open_launchpad
from dao_flows.makers.machine.masking import mask
from dao_flows.settings import settings

SECRET = "hushhush9"
STORE = f"type: MongoStore, database: d, collection_name: c, username: u, password: {SECRET}"
FILES = {  # what a user may have written -> what is told of it
    f"JOB_STORE:\n\tdocs_store: {{{STORE}}}\n": "line 2, column 1: not YAML: a tab",
    f"JOB_STORES: {{docs_store: {{{STORE}}}}}\n": "there is no setting JOB_STORES",
    f"JOB_STORE: {{docs_store: {{{STORE}, passwd: {SECRET}}}}}\n": "a store in it takes no setting passwd",
    f"JOB_STORE: {{docs_store: {{type: MongoStore, password: {SECRET}}}}}\n": "lacks 'database' and 'collection_name'",
    f"JOB_STORE: {{docs_store: {{type: MangoStore, password: {SECRET}}}}}\n": "there is no store of type MangoStore",
    f"JOB_STORE: {{docs_store: {{type: {SECRET}}}}}\n": "a store of it is of no known type",
    f"JOB_STORE: [{{docs_store: {{{STORE}}}}}]\n": "the value of JOB_STORE is none that it can have",
    f"JOB_STORE: {SECRET}.yaml\n": "a file that it names cannot be read: No such file",
    f"- JOB_STORE: {{docs_store: {{{STORE}}}}}\n": "not a list",
    f"{SECRET}\n": "not a single value",
    f"JOB_STORE: {{docs_store: {{password: *{SECRET}}}}}\n": "not YAML: found undefined alias",
    f"JOB_STORE: {{docs_store: {{password: '{SECRET}\n": "not YAML",
    "# nothing\n": "it holds nothing",
    b"JOB_STORE: {docs_store: {password: hushhush9\xff}}\n": "not text in UTF-8",
}


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and SECRET not in text


@pytest.mark.parametrize("content", FILES)
def test_a_file_of_jobflow_that_cannot_be_used(tmp_path, monkeypatch, content):
    from jobflow.settings import JobflowSettings

    path = tmp_path / "jobflow.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(path))
    with pytest.raises(Exception) as caught:
        JobflowSettings()
    for said in (described(JOBFLOW, caught.value), fault(caught.value), explain(caught.value)):
        assert said is not None and str(path) in said and FILES[content] in said
        assert SECRET not in said and "\n" not in said


START = [sys.executable, "-c", "from dao_flows.cli import main; main()"]


@pytest.mark.parametrize(
    ("name", "content", "command"),
    [
        (".jobflow.yaml", f"JOB_STORE: [{{docs_store: {{{STORE}}}}}]\n", ("list",)),
        (".jobflow.yaml", f"\tJOB_STORE: {SECRET}\n", ("predict", "Si", "--traceback")),
        (".jobflow.yaml", None, ("audit", "verify", "--all")),  # a folder
        (".fireworks/FW_config.yaml", f"NO_SUCH: {SECRET}\n", ("status",)),
    ],
)
def test_a_command_that_meets_it_at_its_start(tmp_path, name, content, command):
    """In a process of its own: the libraries read their files when they are imported."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content) if content is not None else path.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("JOBFLOW_", "FW_"))}
    env = {**clean, "HOME": str(tmp_path), "DAO_FLOWS_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([*START, *command], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr
    assert str(path) in done.stderr.splitlines()[-1] and "unexpected" not in done.stderr
    assert done.stderr.count("\n") == 1 or "--traceback" in command


def test_variables_of_the_environment_and_the_python_call(tmp_path):
    value = f'{{"docs_store": {{"type": "MongoStore", "password": "{SECRET}", "x": 1}}}}'
    env = {**os.environ, "HOME": str(tmp_path), "JOBFLOW_JOB_STORE": value}
    for code in (
        "import dao_flows; dao_flows.predict('Si')",
        "from dao_flows.store.stores import job_store; job_store()",
    ):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        last = done.stderr.splitlines()[-1]
        assert last.startswith("dao_flows.errors.SettingsError: the environment variable JOBFLOW_JOB_STORE cannot be")
        assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [(".atomate2.yaml", f"NO_SUCH: {SECRET}\n"), (".atomate2.yaml", f"\tVASP_CMD: {SECRET}\n")],
)
def test_doctor_goes_on_where_a_library_cannot_read_its_settings(tmp_path, tiny_checkpoints, name, content):
    pytest.importorskip("atomate2")
    (tmp_path / name).write_text(content)
    env = {**os.environ, "HOME": str(tmp_path), "DAO_FLOWS_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([*START, "doctor"], env=env, capture_output=True, text=True)
    assert name in done.stdout and "slurm" in done.stdout and done.stderr == ""
    assert SECRET not in done.stdout


@pytest.mark.parametrize(
    "content", [f"host: mongodb://u:{SECRET}@h\n\tpassword: {SECRET}\n", f"- {SECRET}\n", f"port: {SECRET}\n"]
)
def test_a_launchpads_file_is_told_without_what_it_holds(tmp_path, content):
    pytest.importorskip("fireworks")
    path = tmp_path / "my_launchpad.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"my_launchpad\.yaml cannot be used") as caught:
        open_launchpad(path, settings())
    assert one_line(f"{caught.value}\n")


def test_what_pydantic_was_given_is_masked_by_its_place():
    text = f"1 error\n  Value error [type=x, input_value=[{{'a': '{SECRET}', 'b': 2}}], input_type=list]"
    assert SECRET not in mask(text) and "input_type=list" in mask(text)


def test_an_error_of_another_kind_is_no_configurations(tmp_path):
    for error in (ValueError("x"), KeyError("y"), OSError(2, "no", str(tmp_path))):
        assert fault(error) is None
    try:
        Path(tmp_path / "x").read_text()
    except OSError as error:
        assert fault(error) is None
