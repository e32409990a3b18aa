"""The library of known crystals that ships: `python benchmarks/shipped_library.py crysdb_mini.parquet`.

Its crystals are those of the train split that are within 0.08 eV/atom of the hull, or of unknown energy and found there
by dao-p-flow, of sources whose licence allows it. No formula of a test file (they lie beside the data) is in it, and no
structure that matches one of theirs; the formulas that are out are listed for the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core import Composition

from dao_flows.api.libraries import build_in
from dao_flows.makers.datasets import BuildConfig
from dao_flows.makers.schemas.decoding import structure as structure_of
from dao_flows.model.crystals import Crystal
from dao_flows.model.data.shards import file_sha256, read_rows
from dao_flows.model.templates.library import Cell, Library, written
from dao_flows.model.templates.places import SHIPPED
from dao_flows.model.training.run import read_judge

ROOT = Path(__file__).parents[1]
FORMULAS = ROOT / "tests" / "model" / "data" / "held_out_formulas.txt"
MAX_ENERGY, JUDGE = 0.08, "dao-p-flow"  # eV/atom above hull
HELD_OUT = ("mp20_test_dev.parquet", "mpts52_test_dev.parquet", "perov5.parquet", "carbon24.parquet")
CSPBENCH, SUPERCONDUCTORS = "cspbench.csv", "reference_superconductors.json"
CC_BY, PUBLIC = "CC-BY-4.0", "public domain"
LICENCES = {
    CC_BY: "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)",
    PUBLIC: "public domain (NIST, a work of the government of the United States)",
}


@dataclass(frozen=True)
class Origin:
    """A database whose crystals may be handed on. rows: what the data calls them; ids: how theirs look."""

    name: str
    licence: str
    rows: tuple[str, ...]
    ids: str
    cite: str


ORIGINS = (
    Origin(
        "Materials Project",
        CC_BY,
        ("mp20-train", "mp20-val", "mpts52-val", "lemat-mp", "mp-binary"),
        r"(mp|mvc)-\d+",
        "A. Jain et al., APL Materials 1, 011002 (2013), https://doi.org/10.1063/1.4812323",
    ),
    Origin(
        "WBM",
        CC_BY,
        ("wbm", "wbm-random"),
        r"wbm[-_]\S+",
        "H.-C. Wang, S. Botti and M. A. L. Marques, npj Computational Materials 7, 12 (2021), "
        "https://doi.org/10.1038/s41524-020-00481-6",
    ),
    Origin(
        "OQMD",
        CC_BY,
        ("lemat-oqmd",),
        r"oqmd-\d+",
        "J. E. Saal et al., JOM 65, 1501 (2013), https://doi.org/10.1007/s11837-013-0755-4; S. Kirklin et al., npj "
        "Computational Materials 1, 15010 (2015), https://doi.org/10.1038/npjcompumats.2015.10",
    ),
    Origin(
        "Alexandria",
        CC_BY,
        ("lemat-alexandria",),
        r"agm\d+",
        "J. Schmidt et al., Advanced Materials 35, 2210788 (2023), https://doi.org/10.1002/adma.202210788",
    ),
    Origin(
        "JARVIS-DFT",
        PUBLIC,
        ('lemat-jarvis_dft3d(dir "aflow")',),
        r"JVASP-\d+",
        "K. Choudhary et al., npj Computational Materials 6, 173 (2020), https://doi.org/10.1038/s41524-020-00440-1",
    ),
)


def held_out_rows(folder: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What must not be in the library: name and crystals of each test file (of carbon, every crystal is out)."""
    for name in HELD_OUT:
        rows = [row for row in read_rows(folder / name) if row.get("split", "test") == "test"]
        keys = ("material_id", "numbers", "lattice", "frac")
        yield Path(name).stem, [{key: row[key] for key in keys} for row in rows]
    found = []
    for name, each in json.loads((folder / SUPERCONDUCTORS).read_text()).items():
        structure = structure_of(each["structure"])
        arrays = (structure.atomic_numbers, structure.lattice.matrix.ravel(), structure.frac_coords.ravel())
        numbers, lattice, frac = (np.asarray(array).tolist() for array in arrays)
        found.append({"material_id": name, "numbers": numbers, "lattice": lattice, "frac": frac})
    yield Path(SUPERCONDUCTORS).stem, found


def held_out_formulas(folder: Path, crystals: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Reduced formulas of all of them, and of CSPBench, of which there are formulas alone."""
    cells = [np.array(row["numbers"]) for rows in crystals.values() for row in rows]
    lines = (folder / CSPBENCH).read_text().splitlines()
    place = lines[0].split(",").index("full_formula")
    for line in lines[1:]:
        amounts = Composition(line.split(",")[place]).items()
        cells.append(np.repeat([element.Z for element, _ in amounts], [int(count) for _, count in amounts]))
    return {written(Cell.of(numbers).formula) for numbers in cells}


def near_the_hull(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are, or that the judge finds there; those whose energy DFT gave come first, unknown ones last."""
    judge, _ = read_judge(JUDGE, "cpu")
    unknown = [row for row in rows if row["e_above_hull"] is None]
    crystals = [
        Crystal(np.array(row["numbers"]), np.reshape(row["frac"], (-1, 3)), np.reshape(row["lattice"], (3, 3)))
        for row in unknown
    ]
    judged = np.asarray(judge(crystals)) if crystals else []
    near = [row for row, energy in zip(unknown, judged, strict=True) if energy <= MAX_ENERGY]
    known = [row for row in rows if row["e_above_hull"] is not None and row["e_above_hull"] <= MAX_ENERGY]
    return [*sorted(known, key=lambda row: row["e_above_hull_kind"] != "dft"), *near]


def select(data: Path, formulas: set[str]) -> Iterator[tuple[Origin, list[dict[str, Any]]]]:
    """The crystals of each origin. Raises ValueError for an id that is not its own."""
    rows = [row for row in read_rows(data) if row["split"] == "train"]
    print(f"{len(rows)} crystals to learn from", flush=True)
    rows = [row for row in rows if written(Cell.of(np.array(row["numbers"])).formula) not in formulas]
    print(f"{len(rows)} of no formula that is held out", flush=True)
    for origin in ORIGINS:
        own = [row for row in rows if row["source"] in origin.rows]
        if wrong := [row["material_id"] for row in own if not re.fullmatch(origin.ids, row["material_id"])]:
            raise ValueError(f"{wrong[0]} is no id of {origin.name}")
        found = near_the_hull(own)
        print(f"{origin.name}: {len(own)}, {len(found)} near the hull", flush=True)
        yield origin, [row | {"source": origin.name} for row in found]


def file_of(name: str) -> str:
    """The file in which crystals of this name wait for the build."""
    return re.sub(r"\W+", "-", name.lower()) + ".parquet"


def licences(library: Library, data: Path) -> str:
    """The page beside the library: where its crystals come from, and under which licence."""
    counts = np.bincount(library.columns["source"], minlength=len(library.sources)).tolist()
    crystals = dict(zip(library.sources, counts, strict=True))
    lines = [
        "# Where these crystals come from",
        "",
        f"{len(library)} crystals within {MAX_ENERGY} eV/atom of the hull, or of unknown energy and found there "
        f"by the checkpoint `{JUDGE}`. What was changed: cells are Niggli-reduced and rounded to float32, of crystals "
        "that match one is kept, and the whole is laid out for lookups. `source` and `material_id` of a row say where "
        "it is from.",
        "",
        "| source | crystals | licence | cite |",
        "|---|---|---|---|",
        *(
            f"| {o.name} | {crystals[o.name]} | {LICENCES[o.licence]} | {o.cite} |"
            for o in ORIGINS
            if o.name in crystals
        ),
        "",
        f"Made by `benchmarks/shipped_library.py` from {data.name} (sha256 {file_sha256(data)}), which was read from "
        "public copies of these databases (WyckoffTransformer, LeMat-GenBench, matcalc). Left out: AFLOW, and rows "
        "that do not tell which of two databases they are from.",
        "",
    ]
    return "\n".join(lines)


def formula_list(folder: Path, formulas: set[str]) -> str:
    """The formulas that are out, below the files that they come from."""
    files = [f"# {name} {file_sha256(folder / name)}" for name in (*HELD_OUT, CSPBENCH, SUPERCONDUCTORS)]
    return "\n".join([*files, *sorted(formulas), ""])


def build(data: Path, out: Path) -> tuple[Library, set[str]]:
    """Build the library in the folder `out`, in the place of what is there; also the formulas that are out."""
    crystals = dict(held_out_rows(data.parent))
    formulas = held_out_formulas(data.parent, crystals)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)  # the manifest names files as they are given
        sources, held_out = [], []
        for origin, rows in select(data, formulas):
            pq.write_table(pa.Table.from_pylist(rows), file_of(origin.name))
            sources.append(f"{file_of(origin.name)}?name={origin.name}&licence={origin.licence}")
        for name, rows in crystals.items():
            pq.write_table(pa.Table.from_pylist(rows), file_of(name))
            held_out.append(f"{file_of(name)}?name={name}")
        config = BuildConfig(
            name="known", max_energy=MAX_ENERGY, keep_unlabelled=True, held_out=tuple(held_out), held_out_formulas=True
        )
        new = Path("new")
        build_in(new, sources, config, lambda done, total, what: None)
        (new / "LICENCES.md").write_text(licences(Library(new), data))
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(new, out)
        os.chdir(ROOT)
    return Library(out), formulas


def main() -> None:
    """Write the library and the list of formulas."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("data", type=Path, help="crysdb_mini.parquet, beside which the test files lie")
    p.add_argument("--out", type=Path, default=SHIPPED / "known")
    p.add_argument("--formulas", type=Path, default=FORMULAS, help="the list of formulas that are out")
    args = p.parse_args()
    data, out, listed = args.data.absolute(), args.out.absolute(), args.formulas.absolute()
    library, formulas = build(data, out)
    listed.write_text(formula_list(data.parent, formulas))
    size = sum(path.stat().st_size for path in out.iterdir()) / 2**20
    print(f"{len(formulas)} formulas are out")
    print(f"{len(library)} crystals in {len(library.groups)} groups, {size:.1f} MiB, sha256 {library.sha256}")


if __name__ == "__main__":
    main()
