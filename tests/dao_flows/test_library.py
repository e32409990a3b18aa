"""`dao-flows library`, and what docs/library.md says of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.api.libraries import build_library, open_library
from dao_flows.makers.schemas.verification import HullEnergy, Level
from dao_flows.model.data.shards import read_manifest
from dao_flows.model.files import user_folders
from dao_flows.store.stores import job_store

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "examples" / "data" / "crystals_small.parquet"


@pytest.fixture
def source(workplace, monkeypatch) -> str:
    """Twelve crystals in the workplace of a user without libraries."""
    monkeypatch.setenv("DAO_FLOWS_LIBRARY_DIR", str(workplace.parent / "libraries"))
    pd.read_parquet(SMALL).head(12).to_parquet(workplace / "few.parquet")
    return "few.parquet"


def problems(err: str) -> list[str]:
    assert "Traceback" not in err
    return [line for line in err.splitlines() if line.startswith("dao-flows:")]


def test_build_list_show_verify(call, source):
    code, out, err = call("library", "build", "mine", source, "--licence", "CC-BY-4.0", "--rows-per-shard", "5")
    assert code == 0 and not problems(err)
    library = open_library("mine")
    assert f"{len(library)} crystals in {len(library.groups)} groups" in out and "CC-BY-4.0" in out
    assert library.folder == user_folders.libraries() / "mine" and len(library.manifest.shards) == 3
    code, out, _ = call("library", "list", "--json")
    told = {each["name"]: each for each in json.loads(out)}["mine"]
    assert code == 0 and told["crystals"] == len(library) and told["licences"] == ["CC-BY-4.0"]
    assert library.sha256[:12] in call("library", "list")[1]
    code, out, _ = call("library", "show", library.sha256[:8])
    assert code == 0 and f"{len(library)} crystals can be templates" in out and library.sha256 in out
    shown = json.loads(call("library", "show", "mine", "--json")[1])
    assert shown["sha256"] == library.sha256 and shown["formulas"] == len(library.formulas)
    assert len(shown["volumes"]) == shown["elements"] and sum(shown["sources"].values()) == len(library)
    code, out, _ = call("library", "verify", "mine")
    assert code == 0 and "mine is whole" in out


def test_a_dataset_gives_the_same_library_and_another_name_the_same_identity(call, source):
    assert call("dataset", "build", "set", source)[0] == 0
    assert call("library", "build", "one", "set")[0] == 0
    one, direct = open_library("one"), build_library("two", [source])
    assert one.sha256 == direct.sha256 == read_manifest(Path("set")).sha256
    assert call("library", "build", "one", "set")[0] == 0  # it is there already
    code, _, err = call("library", "build", "one", source)
    assert code == 2 and "holds a dataset of other sources" in problems(err)[0]
    shutil.copytree("set", user_folders.libraries() / "three")  # without an index it is no library yet
    assert call("library", "show", "three")[0] == 2
    assert call("library", "build", "three", source)[0] == call("library", "verify", "three")[0] == 0


def test_ones_own_come_before_the_one_that_ships(call, source):
    shipped = open_library("known")
    assert call("library", "build", "known", source)[0] == 0
    assert open_library("known").folder == user_folders.libraries() / "known" != shipped.folder
    assert open_library(shipped.sha256).folder == shipped.folder


def test_a_killed_build_goes_on(call, source, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dao_flows.api.libraries.build_index", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_library("mine", [source])
    assert call("library", "show", "mine")[0] == 2
    assert not (user_folders.libraries() / "mine").exists()
    assert len(build_library("mine", [source])) > 0
    assert [path.name for path in user_folders.libraries().iterdir()] == ["mine"]
    assert call("library", "verify", "mine")[0] == 0


def test_verified_structures_of_the_store_are_a_source(call, source, put, a_candidate, a_verification):
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    energies = {"corrected_energy_per_atom": -3.0, "formation_energy_per_atom": -1.0, "energy_above_hull": 0.01}
    hull = {"reference": "mine", "reference_sha256": "0" * 64, "scheme": "none", "scheme_version": "0"}
    documents = [
        a_verification(
            a_candidate(name, salt),
            backend=code,
            level=Level(code=code, functional="PBE"),
            hull=HullEnergy(**hull, **energies, correction_per_atom=0.0),
        )
        for name, code in (("dao-a", "forcefield"), ("dao-b", "abinit"))
    ]
    put(job_store(), *documents, uuids=["by-chgnet", "by-abinit"])
    assert call("library", "build", "ours", "store:")[0] == 0
    library = open_library("ours")
    assert len(library) == 1 and library.material_id(0) == "by-abinit" and library.source(0) == "store"
    assert library.energies(0, 1) == np.float32(0.01)


def test_what_cannot_be_built_is_said_in_one_line_and_leaves_nothing(call, source):
    for name in ("a/b", "../b", ".hidden", "", "x" * 200, "con"):
        code, _, err = call("library", "build", name, source)
        assert code == 2 and "cannot be the name of a library" in problems(err)[0] and len(problems(err)) == 1
    heavy = pd.read_parquet(SMALL).head(1)
    heavy["numbers"] = [[95] * len(heavy["numbers"][0])]
    heavy.to_parquet("heavy.parquet")
    for arguments, says in (
        (("mine", "absent.csv"), "no file or folder absent.csv"),
        (("mine", source, "--max-energy", "-9"), "no row is left"),
        (("mine", "heavy.parquet"), "holds no crystal that can be a template"),
        (("mine", source, "--min-atoms", "9", "--max-atoms", "2"), "min_atoms"),
        (("mine", "store:"), "the sources have none"),
    ):
        code, _, err = call("library", "build", *arguments)
        assert code == 2 and len(problems(err)) == 1 and says in problems(err)[0]
        assert not (user_folders.libraries() / "mine").exists()
    code, out, _ = call("library", "list", "--json")
    assert code == 0 and "mine" not in [each["name"] for each in json.loads(out)]
    assert call("library", "build", "mine", source)[0] == 0


def test_what_is_damaged_is_told(call, source):
    assert call("library", "build", "mine", source)[0] == call("library", "build", "other", source)[0] == 0
    (user_folders.libraries() / "other" / "index.json").write_text("{")
    code, out, err = call("library", "list", "--json")
    assert code == 0 and "mine" in [each["name"] for each in json.loads(out)]
    assert len(problems(err)) == 1 and "index.json cannot be read" in problems(err)[0]
    for command in ("show", "verify"):
        code, _, err = call("library", command, "other")
        assert code == 2 and problems(err) == problems(call("library", "list")[2])
        code, _, err = call("library", command, "nothing")
        assert code == 2 and "no library called 'nothing'; there are:" in problems(err)[0]
    shard = user_folders.libraries() / "mine" / "shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert call("library", "show", "mine")[0] == 0  # lookups do not read it
    code, _, err = call("library", "verify", "mine")
    assert code == 2 and "shard-00000.parquet was changed" in problems(err)[0] and len(problems(err)) == 1
    code, out, err = call("library", "verify")  # all of them
    assert code == 2 and "known is whole" in out
    assert "index.json cannot be read" in err and "shard-00000.parquet was changed" in err


def test_the_page_about_libraries(source, workplace):
    text = (ROOT / "docs" / "library.md").read_text()
    script = ["set -e"]
    for number, (language, block) in enumerate(re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S)):
        (workplace / f"block{number}.py").write_text(block)
        script.append(block if language == "bash" else f"python block{number}.py")
    assert len(script) == 5
    shutil.copy(SMALL, workplace)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    mine, same = open_library("mine"), open_library("same")
    assert f"mine is whole: {len(mine)} crystals" in done.stdout and same.sha256 in done.stdout
    assert mine.licence(0) == "CC-BY-4.0" and len(mine) == len(same) < len(open_library("from-python"))
