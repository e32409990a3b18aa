"""The page on scaling shows what the benchmarks measured, and no other figures."""

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]


def scaling():
    found = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_pages_tables_are_those_of_the_results():
    module = scaling()
    found = {name: json.loads((module.RESULTS / f"{name}.json").read_text()) for name in module.SOURCES}
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.fill(page, found) == page, "run benchmarks/scaling.py"
    for name in module.SOURCES:
        assert f"benchmarks/{name}.py" in page


def test_estimates_follow_the_pages_formulas():
    module = scaling()
    measured = {
        "candidates_a_composition": 20,
        "drawn": 200,
        "job_seconds": 400.0,
        "bytes_a_candidate": {"a": 1000.0, "b": 500.0},
    }
    found = {
        "launching": {"overhead": [{"ms_a_job": 100.0}], "start": {"seconds": 5.0, "of_them_job": 2.0}},
        "documents": {"documents": [measured]},
    }
    assert module.estimate(found, 1_000_000) == {
        "jobs": 200_000,
        "bytes": 20_000_000 * 1500,
        "overhead_seconds": 20_000,
        "start_seconds": 600_000,
        "core_seconds": 40_000_000,
    }
    assert module.estimate(found, 1)["jobs"] == 2
