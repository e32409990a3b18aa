"""`dao-flows dataset prepare`."""

import numpy as np
import pandas as pd
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from dao_flows.dataset import prepare
from dao_flows.errors import InputError


def rows(structures: list[Structure]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "numbers": [np.array(s.atomic_numbers, dtype=np.uint8) for s in structures],
            "lattice": [s.lattice.matrix.astype(np.float32).ravel() for s in structures],
            "frac": [s.frac_coords.astype(np.float32).ravel() for s in structures],
            "e_above_hull": np.arange(len(structures)) * 0.1,
        }
    )


@pytest.fixture
def skewed() -> list[Structure]:
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    primitive = rock_salt.get_primitive_structure()
    sheared = primitive.copy()
    sheared.make_supercell([[1, 2, 0], [0, 1, 3], [0, 0, 1]])
    return [primitive, sheared]


def test_cells_are_reduced_and_the_crystals_are_the_same(tmp_path, skewed):
    source, target = tmp_path / "raw.parquet", tmp_path / "ready.parquet"
    rows(skewed).to_parquet(source)
    assert prepare(source, target) == 2
    ready = pd.read_parquet(target)
    assert list(ready["e_above_hull"]) == [0.0, 0.1]
    for before, row in zip(skewed, ready.itertuples(), strict=True):
        after = Structure(np.reshape(row.lattice, (3, 3)), row.numbers.tolist(), np.reshape(row.frac, (-1, 3)))
        assert list(after.atomic_numbers) == list(before.atomic_numbers)
        assert max(after.lattice.abc) < 4.1
        assert StructureMatcher(primitive_cell=False).fit(before, after)
    again = tmp_path / "again.parquet"
    prepare(source, again)
    assert again.read_bytes() == target.read_bytes()


def test_what_cannot_be_read_is_said_in_one_line_and_nothing_is_written(tmp_path, skewed):
    target = tmp_path / "ready.parquet"
    with pytest.raises(InputError, match="cannot read"):
        prepare(tmp_path / "absent.parquet", target)
    table = rows(skewed)
    table.drop(columns="frac").to_parquet(tmp_path / "raw.parquet")
    with pytest.raises(InputError, match="no column frac"):
        prepare(tmp_path / "raw.parquet", target)
    table.assign(lattice=[np.zeros(9, dtype=np.float32)] * 2).to_parquet(tmp_path / "raw.parquet")
    with pytest.raises(InputError, match="row 0: the cell cannot be reduced"):
        prepare(tmp_path / "raw.parquet", target)
    assert not target.exists()
