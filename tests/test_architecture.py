"""ARCHITECTURE.md is true: its drawings show the arrows that there are, its tables every room, and it names what
exists."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from test_house import FOLDERS, MODULES, ROOT, imports_within

PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TOGETHER = {"dao_flows.makers": "stages", "dao_flows": "ground"}  # modules at the top of these floors are one box
FLOWS = {"dao_flows.makers.predict", "dao_flows.makers.pretrain"}  # but for those that put stages together
FLOORS = ("model", "makers", "dao_flows")


def floor_and_box(module: str) -> tuple[str, str]:
    """Where a module is drawn: the floor, and its folder, or itself at the top of the model's floor."""
    folder = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    top = max((name for name in FOLDERS if module == name or module.startswith(f"{name}.")), key=len)
    floor = top.rpartition(".")[2]
    if folder == top:
        return floor, "flows" if module in FLOWS else TOGETHER.get(top) or module.removeprefix(f"{top}.")
    return floor, folder.removeprefix(f"{top}.").replace(".", "/")


def arrows(floor: str) -> set[tuple[str, str]]:
    """From each box of a floor to those whose modules it imports, without what follows from others."""
    reached: dict[str, set[str]] = defaultdict(set)
    for name, imported in imports_within().items():
        place, box = floor_and_box(name)
        if place == floor and MODULES[name] != FOLDERS.get(name, Path()) / "__init__.py":
            reached[box] |= {there for where, there in map(floor_and_box, imported) if where == floor} - {box}

    def beyond(box: str) -> set[str]:
        return reached[box].union(*map(beyond, reached[box]))

    return {(box, to) for box in list(reached) for to in reached[box] if not any(to in beyond(b) for b in reached[box])}


def drawn(floor: str) -> str:
    """A floor as Mermaid."""
    lines = [f"    {box} --> {to}" for box, to in sorted(arrows(floor))]
    return "\n".join(["```mermaid", "graph LR", *lines, "```"])


@pytest.mark.parametrize("floor", FLOORS)
def test_the_drawing_is_true(floor):
    assert drawn(floor) in PAGE, f"the drawing of {floor} is not as the imports are:\n{drawn(floor)}"


@pytest.mark.parametrize("floor", FLOORS)
def test_every_room_has_a_line(floor):
    rooms = {box for place, box in map(floor_and_box, MODULES) if place == floor}
    table = PAGE.split(f"\n## `{floor}/`")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `([\w/]+?)/?` \|", table, re.MULTILINE))
    folders = {box for box in rooms if (FOLDERS_OF[floor] / box).is_dir()}
    assert folders <= told, folders - told
    assert told <= rooms, told - rooms


FOLDERS_OF = {name.rpartition(".")[2]: folder for name, folder in FOLDERS.items()}


def test_every_path_that_it_names_exists():
    named = set(re.findall(r"`((?:model|makers|dao_flows|tests|docs|examples|benchmarks)/[\w./-]*)`", PAGE))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_arrows_leave_out_what_follows_from_others():
    assert ("train", "training") in arrows("model")
    assert ("train", "crystals") not in arrows("model")
