"""Files and folders: every one is read, named as a reject, or passed over and counted; none is changed."""

import bz2
import csv
import gzip
import hashlib
import json
import lzma
import os
import shutil
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from ase.db import connect
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from dao_flows.makers.datasets import BuildConfig, SourceError, build_dataset
from dao_flows.makers.datasets.cleaning import Clean, clean
from dao_flows.makers.datasets.readers.raw import Raw
from dao_flows.makers.datasets.readers.refusal import Rejected
from dao_flows.makers.datasets.sources import open_source
from dao_flows.model.data.shards import dataset_rows

VASP4 = "a comment: H He\n3.567\n0 .5 .5\n.5 0 .5\n.5 .5 0\n2\nDirect\n0 0 0\n.25 .25 .25\n"
SALT = "KCl\n1.0\n0 3.15 3.15\n3.15 0 3.15\n3.15 3.15 0\nK Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"


def read(text: str) -> dict[str | None, Clean | Rejected]:
    source = open_source(text)
    rows: list[Raw] = list(source.read())
    assert source.total() in (None, len(rows))
    positions = [raw.position for raw in rows]
    for start in positions:  # as a build goes on after a kill
        assert [raw.position for raw in source.read(start)] == [p for p in positions if p >= start]
    return {raw.material_id: clean(raw, BuildConfig(), compare=False) for raw in rows}


def formulas(found: dict[str | None, Clean | Rejected]) -> dict[str | None, str]:
    return {name: got.formula if isinstance(got, Clean) else got.reason for name, got in found.items()}


def test_poscars_of_all_names_compressed_or_not(tmp_path):
    for name in ("POSCAR", "POSCAR-001", "CONTCAR1", "POSCAR_a", "POSCAR.vasp", "contcar.relax", "x.vasp", "y.POSCAR"):
        (tmp_path / name).write_text(SALT)
    (tmp_path / "POSCAR.gz").write_bytes(gzip.compress(SALT.encode()))
    (tmp_path / "z.vasp.bz2").write_bytes(bz2.compress(SALT.encode()))
    (tmp_path / "CONTCAR.xz").write_bytes(lzma.compress(SALT.encode("utf-16")))
    (tmp_path / "POSCAR_bom").write_bytes(SALT.encode("utf-8-sig"))
    (tmp_path / "POSCAR_torn.gz").write_bytes(gzip.compress(SALT.encode())[:-12])
    (tmp_path / "POSCAR_lost").symlink_to("nowhere")
    for name in ("notes.txt", "OUTCAR", "a.txt"):
        (tmp_path / name).write_text("nothing")
    found = formulas(read(str(tmp_path)))
    assert found.pop("POSCAR_torn").startswith("it cannot be read: Compressed file ended")
    assert found.pop("POSCAR_lost") == "it is a link to nothing"
    assert set(found.values()) == {"KCl"} and len(found) == 12
    # two files that would have one id keep their whole names
    assert {"POSCAR", "POSCAR.vasp", "POSCAR.gz", "POSCAR-001", "CONTCAR1", "x", "y", "z"} <= set(found)
    assert open_source(str(tmp_path)).identity()["passed_over"] == {".txt": 2, "OUTCAR": 1}


def test_elements_come_from_the_potcar_beside_a_poscar(tmp_path):
    for name, titles in (("own", "C 08Apr2002"), ("other", "Si 05Jan2001"), ("bare", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "POSCAR").write_text(VASP4)
        if titles:
            (tmp_path / name / "POTCAR").write_text(f"   TITEL  = PAW_PBE {titles}\n")
    found = formulas(read(str(tmp_path)))
    assert (found["own/POSCAR"], found["other/POSCAR"]) == ("C", "Si")
    assert "does not name its elements" in found["bare/POSCAR"]
    before = open_source(str(tmp_path)).identity()
    (tmp_path / "own" / "POTCAR").write_text("   TITEL  = PAW_PBE Ge_d 03Jul2007\n")
    assert open_source(str(tmp_path)).identity()["sha256"] != before["sha256"]
    (tmp_path / "bare" / "POSCAR").write_text(SALT)
    (tmp_path / "bare" / "POTCAR").write_text("   TITEL  = PAW_PBE Cl\n   TITEL  = PAW_PBE K_sv\n")
    assert formulas(read(str(tmp_path)))["bare/POSCAR"] == "it names K Cl, the POTCAR beside it Cl K"


def test_each_block_of_a_cif_is_a_row_or_a_reject(tmp_path, crystals):
    one, two = (crystals[name].to(fmt="cif") for name in ("rock salt", "quartz"))
    (tmp_path / "both.cif").write_text("data_global\n_title x\n" + one + two.replace("data_SiO2", "data_quartz"))
    (tmp_path / "one.cif").write_text("data_global\n_title x\n" + one)
    found = formulas(read(str(tmp_path)))
    assert found == {
        "both#global": "the data block holds no atoms",
        "both#NaCl": "NaCl",
        "both#quartz": "SiO2",
        "one#global": "the data block holds no atoms",
        "one": "NaCl",
    }


def test_names_that_are_no_utf8(tmp_path, crystals):
    folder = tmp_path / "in"
    folder.mkdir()
    odd = os.fsdecode(b"stra\xdfe")
    crystals["rock salt"].to(str(folder / "x.cif"))
    try:
        shutil.copy(folder / "x.cif", folder / f"{odd}.cif")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    crystals["quartz"].to(str(folder / "x.cif"))
    build_dataset(tmp_path / "set", [str(folder)])
    assert {row["material_id"]: row["reduced_formula"] for row in dataset_rows(tmp_path / "set")} == {
        "x": "SiO2",
        "stra\\xdfe": "NaCl",
    }
    source = open_source(str(folder / f"{odd}.cif"))
    assert (source.name, source.location.rpartition("/")[2]) == ("stra\\xdfe", "stra\\xdfe.cif")
    with pytest.raises(SourceError, match="there is no file") as caught:
        open_source(str(tmp_path / f"{odd}.db"))
    str(caught.value).encode()


def test_a_folder_that_cannot_be_listed_ends_the_build(tmp_path, monkeypatch):
    (tmp_path / "POSCAR").write_text(SALT)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="closed cannot be read: Permission denied"):
        open_source(str(tmp_path)).identity()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_byte_order_mark_changes_nothing(encoding, suffix, tmp_path, crystals):
    text = crystals["rock salt"].to(fmt="cif").replace('"', "'")
    table = f'material_id ,cif,e_above_hull\r\nmp-22862,"{text}",0.02\r\n'.encode(encoding)
    path = tmp_path / f"set.csv{suffix}"
    path.write_bytes(gzip.compress(table) if suffix else table)
    ((name, found),) = read(str(path)).items()
    assert isinstance(found, Clean) and (name, found.row["e_above_hull"]) == ("mp-22862", 0.02)


@pytest.mark.parametrize("identity", ["007", "1e5", "NaN", "True", "0x1", "None", "1_000", "mp-1", "[1, 2]"])
def test_ids_are_text_as_they_are_written(identity, tmp_path, crystals):
    text = crystals["rock salt"].to(fmt="cif")
    with (tmp_path / "set.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "cif"], [identity, text]])
    pd.DataFrame({"id": [identity], "cif": [text]}).to_parquet(tmp_path / "set.parquet")
    frame = '2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 id="{}" gap=007\nLi 0 0 0\nD 1.5 1.5 1.5\n'
    (tmp_path / "set.xyz").write_text(frame.format(identity))
    for name in ("set.csv", "set.parquet", "set.xyz"):
        ((found, got),) = read(str(tmp_path / name)).items()
        assert found == identity and isinstance(got, Clean)
    assert got.formula == "LiH"  # deuterium


@pytest.mark.parametrize(
    ("comment", "identity"),
    [
        ('"id"=007', "007"),
        ("id = 007", "007"),
        ('id="007"', "007"),
        ("mp_id=1e5", "1e5"),
        ("old-id=5", None),
        ('note="id=5 here"', None),
        ("old.id=5 id=007", "007"),
    ],
)
def test_an_id_of_a_frame_is_what_stands_behind_its_own_name(comment, identity, tmp_path):
    (tmp_path / "set.xyz").write_text(f'1\nLattice="3 0 0 0 3 0 0 0 3" {comment}\nLi 0 0 0\n')
    (raw,) = open_source(str(tmp_path / "set.xyz"), (), None).read()
    assert raw.fault is None and raw.material_id == identity


def test_numbers_as_ids(tmp_path, crystals):
    text = crystals["rock salt"].to(fmt="cif")
    pd.DataFrame({"id": [7, None], "cif": [text, text]}).to_parquet(tmp_path / "set.parquet")  # floats, in pandas
    assert set(read(str(tmp_path / "set.parquet"))) == {"7", None}


def test_tables_that_are_damaged_or_cut_short_end_the_build(tmp_path, crystals):
    text = crystals["rock salt"].to(fmt="cif").replace('"', "'")
    row = f'mp-1,"{text}"\n'
    files = {
        "cut.csv": f"id,cif\n{row}{row[:-40]}".encode(),
        "cut.csv.gz": gzip.compress(f"id,cif\n{row * 50}".encode())[:-20],
        "cut.xyz.gz": gzip.compress(b"1\nLattice='3 0 0 0 3 0 0 0 3'\nLi 0 0 0\n" * 500)[:-20],
        "no.csv.gz": b"no gzip",
        "twice.csv": f"id,id,cif\n1,{row}".encode(),
    }
    pd.DataFrame({"cif": [text * 100] * 50}).to_parquet(tmp_path / "cut.parquet")
    files["cut.parquet"] = (tmp_path / "cut.parquet").read_bytes()[:-100]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=r"damaged|cannot read|twice") as caught:
            build_dataset(tmp_path / "set", [str(tmp_path / name)])
        assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()


def test_rows_of_other_lengths_and_bytes_that_are_no_text(tmp_path, crystals):
    text = crystals["rock salt"].to(fmt="cif").replace('"', "'")
    good = f'mp-1,"{text}",0'
    path = tmp_path / "set.csv"
    latin = good.replace("mp-1", "stra\xdfe").encode("latin-1")
    commented = good.replace("mp-1", "mp-2").replace("# generated", "# \xdf").encode("latin-1")
    path.write_bytes(b"\n".join([b"id,cif,e_above_hull", f"{good},1".encode(), good[:-2].encode(), latin, commented]))
    source = open_source(str(path))
    found = [clean(raw, BuildConfig(), compare=False) for raw in source.read()]
    reasons = [got.reason for got in found if isinstance(got, Rejected)]
    assert reasons == [
        "it has 4 fields, the table 3 columns",
        "it has 2 fields, the table 3 columns",
        "its material_id is no UTF-8 text",
    ]
    assert isinstance(found[3], Clean)


def listing(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_database_is_only_read(tmp_path, crystals):
    folder = tmp_path / "in"
    folder.mkdir()
    with sqlite3.connect(folder / "notes.db") as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    (folder / "empty.db").touch()
    with connect(folder / "good #1?.db") as database:
        database.write(AseAtomsAdaptor.get_atoms(crystals["rock salt"]), data={"material_id": "007"})
    shutil.copy(folder / "good #1?.db", folder / "wal.db")
    writer = sqlite3.connect(folder / "wal.db", isolation_level=None)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("PRAGMA wal_autocheckpoint = 0")
    (folder / "copied").mkdir()
    writer.execute("INSERT INTO systems SELECT id + 1, 'u' || id, " + ", ".join(_columns(writer)[2:]) + " FROM systems")
    for suffix in ("", "-wal"):
        shutil.copy(folder / f"wal.db{suffix}", folder / "copied" / f"wal.db{suffix}")
    writer.close()
    before = listing(folder)
    for name in ("notes.db", "empty.db"):
        with pytest.raises(SourceError, match="is no ASE database"):
            open_source(str(folder / name)).identity()
    assert set(read(str(folder / "good #1?.db"))) == {"007"}
    source = open_source(str(folder / "copied" / "wal.db"))
    assert source.total() == len(list(source.read())) == 2  # one of them in the -wal alone
    assert "sha256-wal" in source.identity()
    assert listing(folder) == before


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA table_info(systems)")]


@pytest.mark.parametrize(
    ("comment", "atoms", "says"),
    [
        ("Properties=species:S:1:pos:R:3", "Li 0 0 0", "not periodic"),
        ('Lattice="3 0 0 0 3 0 0 0 3" pbc="T T F"', "Li 0 0 0", "not periodic"),
        ('Lattice="3 0 0 0 3 0 0 0 0"', "Li 0 0 0", "no volume"),
        ('Lattice="3 0 0 0 3 0 0 0 3"', "X 0 0 0", "no element"),
        ('Lattice="3 0 0 0 3 0 0 0 3"', "Li 0 0 nan", "not finite"),
        ('Lattice="3 0 0 0 3 0 0 0 3"', "Li 0 0 1e300", "not known"),
        (
            'Lattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:occupancy:R:1',
            "Li 0 0 0 0.5",
            "partially occupied",
        ),
    ],
)
def test_a_frame_that_is_no_crystal(comment, atoms, says, tmp_path):
    (tmp_path / "set.xyz").write_text(f"1\n{comment}\n{atoms}\n")
    (found,) = read(str(tmp_path / "set.xyz")).values()
    assert isinstance(found, Rejected) and says in found.reason


def test_structures_that_are_no_crystals(crystals):
    half = Structure(crystals["rock salt"].lattice, [{"Na": 0.5}], [[0, 0, 0]]).as_dict()
    flat = crystals["rock salt"].as_dict()
    flat["lattice"]["pbc"] = [True, True, False]
    torn = crystals["rock salt"].as_dict()
    torn["lattice"]["matrix"][0][0] = float("nan")
    for data, says in ((half, "partially"), (flat, "not periodic"), (torn, "")):
        found = clean(Raw(0, "structure", json.loads(json.dumps(data))), BuildConfig(), compare=False)
        assert isinstance(found, Rejected) and says in found.reason
    for numbers in ([True, 8], [0, 8], [-1, 8], [1.5, 8], [float("nan"), 8], ["Xx", "O"]):
        raw = Raw(0, "arrays", (numbers, [3, 0, 0, 0, 3, 0, 0, 0, 3], [0, 0, 0, 0.5, 0.5, 0.5]))
        assert isinstance(clean(raw, BuildConfig(), compare=False), Rejected)
    isotopes = Raw(0, "arrays", (["T", "Li"], [4, 0, 0, 0, 4, 0, 0, 0, 4], [0, 0, 0, 0.5, 0.5, 0.5]))
    assert clean(isotopes, BuildConfig(), compare=False).row["numbers"] == [1, 3]
