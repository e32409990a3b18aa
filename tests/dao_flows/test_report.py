"""The report: one page that needs no network, shows the right candidate, and does no harm with what users write."""

import json
import re

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from dao_flows.comparison.builder import comparison_doc
from dao_flows.comparison.figures import comparison_figures
from dao_flows.comparison.report import page, write_report
from dao_flows.comparison.report.scene import scene
from dao_flows.makers.schemas.verification import HullEnergy

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
CAESIUM = Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.4), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0] * 3])
EVIL = "</script><script>document.title='owned'</script>"


@pytest.fixture
def comparisons(a_candidate, a_verification):
    """Three candidates of two compositions, with hulls, one of them named by somebody who means no good."""
    drawn = [
        (a_candidate("dao-1", SALT, 0.02, rank=1), -3.30, 0.0),
        (a_candidate("dao-2", CAESIUM, 0.05, rank=2), -3.20, 0.1),
        (a_candidate(EVIL, SILICON, 0.01, rank=1), -5.40, 0.0),
    ]
    found = []
    for candidate, energy, above in drawn:
        hull = HullEnergy(
            reference=EVIL,
            reference_sha256="r" * 64,
            scheme="none",
            scheme_version="",
            correction_per_atom=0,
            corrected_energy_per_atom=energy,
            formation_energy_per_atom=-1.0,
            energy_above_hull=above,
        )
        found.append(comparison_doc(a_verification(candidate, energy, hull=hull), candidate))
    return found


@pytest.fixture
def report(comparisons, tmp_path):
    """The page's file."""
    path = tmp_path / "report.html"
    write_report(path, comparisons, comparison_figures(comparisons))
    return path


def test_the_page_holds_everything_and_asks_no_network(report, comparisons):
    text = report.read_text()
    ours = re.sub(r"<script>.*?</script>", "", text, flags=re.S)  # plotly's own code names its home page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", ours)
    assert "default-src 'none'" in ours
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert [d["comparison_id"] for d in data["documents"]] == [c.comparison_id for c in comparisons]
    assert set(data["plots"]) == {"parity", "ranks", "elements", "cost"}
    assert len(text) - text.count(" ") < 8e6
    assert EVIL not in text


def test_without_a_hull_energies_are_relative_and_elements_are_left_out(comparisons):
    plain = [
        c.model_copy(update={"energy_above_hull": None, "energy_error": None, "reference": None}) for c in comparisons
    ]
    text = page(plain, comparison_figures(plain))
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert "lowest of the composition" in data["plots"]["parity"]["title"]
    assert set(data["plots"]) == {"parity", "ranks", "cost"}
    assert "page" in page(plain[2:], comparison_figures(plain[2:]))  # one alone has nothing to be relative to


def test_a_scene_has_the_atoms_on_all_corners_and_bonds_of_the_right_length():
    cell, bonds, chlorine, sodium = scene(SALT)
    assert (sodium["name"], chlorine["name"]) == ("Na", "Cl")
    assert len(sodium["x"]) == 14 and len(chlorine["x"]) == 13  # fourteen on corners and faces, edges and centre
    assert len(cell["x"]) == 12 * 3
    ends = np.array([[v for v in bonds[axis] if v is not None] for axis in "xyz"], dtype=float).T.reshape(-1, 2, 3)
    assert np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1) == pytest.approx(5.7 / 2, abs=2e-3)


def test_a_reader_clicks_through_it_without_a_network(browser, report, comparisons):
    browser.get(report.as_uri())
    wait = browser.execute_script

    def named() -> str:
        return wait("return document.getElementById('name').textContent")

    assert "owned" not in browser.title
    assert named() == f"NaCl, {comparisons[0].candidate_id}"
    drawn = "return document.getElementById(arguments[0]).data.filter(t => t.mode === 'markers').map(t => t.name)"
    assert wait(drawn, "predicted") == ["Cl", "Na"]
    rows = browser.find_elements("css selector", "tbody tr")
    assert len(rows) == 3
    rows[2].click()
    assert named() == f"Si, {EVIL}"
    assert wait(drawn, "verified") == ["Si"]
    assert json.loads(wait("return document.getElementById('document').textContent"))["formula"] == "Si"
    click = "document.getElementById(arguments[0]).emit('plotly_click', {points: [{customdata: arguments[1]}]})"
    for name in ("parity", "ranks", "cost"):
        wait(click, name, 1)
        assert named() == "NaCl, dao-2"
        wait(click, name, 0)
        assert named() == "NaCl, dao-1"
    assert browser.current_url.endswith(f"#{comparisons[0].comparison_id}")
    browser.get(f"{report.as_uri()}#{comparisons[1].comparison_id}")
    browser.refresh()
    assert named() == "NaCl, dao-2"
    width = wait("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert width == 0  # nothing to scroll sideways
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert severe == []
