"""`dao-flows dataset`, and what docs/datasets.md says of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dao_flows.api.datasets import build_dataset
from dao_flows.model.data.shards import read_manifest

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "examples" / "data" / "crystals_small.parquet"


@pytest.fixture
def source(workplace) -> str:
    pd.read_parquet(SMALL).head(12).to_parquet(workplace / "few.parquet")
    return "few.parquet"


def test_build_show_verify(call, workplace, source):
    code, out, err = call("dataset", "build", "set", source, "--licence", "CC-BY-4.0", "--rows-per-shard", "5")
    assert code == 0, err
    assert "crystals in set" in out and "CC-BY-4.0" in out
    manifest = read_manifest(workplace / "set")
    assert sum(manifest.sources[0]["rejected"].values()) + manifest.rows == 12
    code, out, _ = call("dataset", "show", "set")
    assert code == 0 and manifest.sha256 in out and "max_atoms 64" in out
    code, out, _ = call("dataset", "show", "set", "--json")
    assert json.loads(out)["sha256"] == manifest.sha256
    assert call("dataset", "verify", "set")[0] == 0
    shard = workplace / "set" / "shard-00001.parquet"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    code, _, err = call("dataset", "verify", "set")
    assert code == 2 and "shard-00001.parquet was changed" in err
    shard.write_bytes(good)
    with (workplace / "set" / "rejects.jsonl").open("a") as stream:
        stream.write("{}\n")
    code, _, err = call("dataset", "verify", "set")
    assert code == 2 and "rejects.jsonl is missing or was changed" in err


def test_what_is_wrong_is_said_in_one_line(call, source):
    for arguments, says in (
        (("build", "set", "absent.csv"), "no file or folder absent.csv"),
        (("build", "set", source, "--max-atoms", "0"), "max_atoms"),
        (("build", "set", source, "--max-energy", "-9"), "no row is left"),
        (("build", "set", "mp:"), "MP_API_KEY"),
        (("show", "absent"), "is no dataset"),
        (("verify", "absent"), "is no dataset"),
    ):
        code, _, err = call("dataset", *arguments)
        lines = [line for line in err.splitlines() if line.startswith("dao-flows:")]
        assert (code, len(lines)) == (2, 1) and says in lines[0]
        assert "Traceback" not in err


def test_the_users_store_is_a_source(call, workplace):
    from pymatgen.core import Lattice, Structure

    from dao_flows.store.stores import job_store

    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    output = {"structure": salt.as_dict(), "state": "successful", "vasp_objects": {}, "orig_inputs": None}
    job_store().docs_store.update(
        {"uuid": "u-1", "index": 1, "name": "static", "output": output}, key=["uuid", "index"]
    )
    code, _, err = call("dataset", "build", "set", "store:?job=static")
    assert code == 0, err
    (source,) = read_manifest(workplace / "set").sources
    assert (source["location"], source["kept"]) == ("store:", 1)


def test_splits_and_files_that_are_not_read_are_told(call, workplace, source):
    code, out, _ = call("dataset", "build", "set", f"{source}?split=Train")
    assert code == 0 and "training does not read these splits" in out and "'Train'" in out
    assert call("dataset", "build", "other", f"{source}?split=val")[0] == 0
    code, out, _ = call("dataset", "show", "other")
    assert code == 0 and "training does not" not in out
    folder = workplace / "in"
    folder.mkdir()
    (folder / "POSCAR-001").write_text("K\n1\n0 3 3\n3 0 3\n3 3 0\nK Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n")
    (folder / "INCAR").touch()
    code, out, _ = call("dataset", "build", "third", str(folder))
    assert code == 0 and "passed over in in, neither CIF nor POSCAR: 1 INCAR" in out
    (folder / "notes.txt").touch()  # which decides nothing
    assert call("dataset", "build", "third", str(folder))[0] == 0


def test_the_python_api_builds_the_same(call, workplace, source):
    assert call("dataset", "build", "set", source)[0] == 0
    assert build_dataset(workplace / "other", [source]).sha256 == read_manifest(workplace / "set").sha256


def test_the_page_about_datasets(workplace):
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "datasets.md").read_text(), re.M | re.S)
    assert len(blocks) == 2
    shutil.copy(SMALL, workplace)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -e", *blocks])], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crystals is whole" in done.stdout
    whole, stable, unstable = (read_manifest(workplace / name) for name in ("crystals", "stable", "unstable"))
    assert whole.counts["val"] > 0
    assert stable.rows + unstable.rows == whole.rows
    assert stable.rows > 0 and unstable.rows > 0
