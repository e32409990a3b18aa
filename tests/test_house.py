"""The rules of the house: imports go down only, ARCHITECTURE.md is true, nothing of one machine gets in."""

import ast
import builtins
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"dao_flows": ROOT / "dao_flows", "dao_flows.makers": ROOT / "makers", "dao_flows.model": ROOT / "model"}
# groups, by which packages of others are found
ENTRY_POINTS = {f"dao_flows.{group}" for group in ("backends", "energy_models", "generators", "stages")}
VERSION = "dao_flows.version"  # which imports nothing
MODEL_MAY_IMPORT = {"torch", "numpy", "safetensors"}
BINARY = {".npz", ".parquet", ".safetensors", ".png", ".xz"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules() -> dict[str, Path]:
    """Every module of the package, by the name it is imported under."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "dao_flows" and parts[0] in ("makers", "model"):  # the links to the two lower floors
                continue
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


MODULES = modules()
OF_MODEL = [name for name in MODULES if name.startswith("dao_flows.model")]


def floor(module: str) -> int:
    """1 for the model, 2 for the makers, 3 for the rest."""
    return {"model": 1, "makers": 2}.get([*module.split("."), ""][1], 3)


def imports(name: str, path: Path, at_import: bool = False) -> Iterator[str]:
    """Absolute names of what a module imports; at_import leaves out function bodies and `if TYPE_CHECKING`."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            known = (f"{source}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else f"{source}:{name.rpartition('.')[2]}" for name in known)
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name):
    for imported in imports(name, MODULES[name]):
        module = imported.split(":")[0]
        if module.split(".")[0] == "dao_flows" and module != VERSION:
            assert floor(module) <= floor(name), f"{name} imports {module}, which stands above it"


def imports_within() -> dict[str, set[str]]:
    """Every module of the package, and the others that it imports, those inside functions too."""
    found = {}
    for name, path in MODULES.items():
        imported = {each.split(":")[0] for each in imports(name, path)}
        found[name] = {each for each in imported if each in MODULES and each not in (name, "dao_flows")}
    return found


def folder_of(module: str) -> str:
    """The package that a module is, or lies in."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


def room(module: str) -> str:
    """The folder that a module lies in; what lies at the top of a floor is a room of its own."""
    folder = folder_of(module)
    return module if folder in FOLDERS else folder


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Nodes that reach each other, one after the other; none if all arrows go one way."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_module_imports_itself_by_way_of_others():
    assert circle(imports_within()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) != []


def test_arrows_between_rooms_go_one_way():
    rooms: dict[str, set[str]] = {}
    for name, imported in imports_within().items():
        rooms.setdefault(room(name), set()).update(room(each) for each in imported)
    assert circle({name: reached - {name} for name, reached in rooms.items()}) == []
    assert rooms["dao_flows.model.sampling"] >= {"dao_flows.model.process", "dao_flows.model.dao_g"}


def test_no_room_holds_over_a_dozen_modules():
    crowded = Counter(path.parent for path in MODULES.values() if path.name != "__init__.py")
    assert {folder: count for folder, count in crowded.items() if count > 12} == {}


def test_the_model_reads_in_the_papers_order():
    """Network and process know nothing of each other; the model puts them together; sampling and training use it."""
    order = ["network", "process", "dao", "dao_g", "dao_p", "sampling", "relax", "checkpoint", "training", "train"]
    place = {f"dao_flows.model.{name}": number for number, name in enumerate(order)}
    for name, imported in imports_within().items():
        for each in imported:
            if (here := place.get(room(name))) is not None and (there := place.get(room(each))) is not None:
                assert there <= here, f"{name} imports {each}"
    assert not any(
        room(each) == "dao_flows.model.network" for each in imports_within()["dao_flows.model.process.flow_matching"]
    )


@pytest.mark.parametrize("name", OF_MODEL)
def test_the_model_floor_imports_torch_numpy_and_safetensors_alone(name):
    roots = {imported.split(":")[0].split(".")[0] for imported in imports(name, MODULES[name], at_import=True)}
    assert roots <= MODEL_MAY_IMPORT | {"dao_flows"} | sys.stdlib_module_names


def test_the_checks_of_imports_see_every_form_of_import(tmp_path):
    source = """
import os.path, numpy as np
from . import api
from ..makers.generate import GenerateMaker
from dao_flows import makers
class C:
    def f(self):
        from dao_flows.model.sampling import sample
        import pandas
"""
    path = tmp_path / "browse.py"
    path.write_text(source)
    lower = {"os.path", "numpy", "dao_flows.cli:api", "dao_flows.makers.generate:GenerateMaker", "dao_flows.makers"}
    assert set(imports("dao_flows.cli.browse", path, at_import=True)) == lower
    assert set(imports("dao_flows.cli.browse", path)) == lower | {"dao_flows.model.sampling.sample", "pandas"}


def closure(distributions: set[str]) -> set[str]:
    """The distributions and all that they require here, by normalised name."""
    found: set[str] = set()
    pending = list(distributions)
    while pending:
        name = re.split(r"[^\w.-]", pending.pop())[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                pending += [line for line in requires(name) or [] if "extra ==" not in line]
            except PackageNotFoundError:
                continue
    return found


def test_every_error_that_a_user_can_put_right_has_one_base():
    """Commands tell by it what is the user's to put right; errors of Python are the bases of no other class."""
    kinds = {name: held for name, held in vars(builtins).items() if isinstance(held, type)}
    raised = {name for name, held in kinds.items() if issubclass(held, Exception)}
    found = {
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and raised & {ast.unparse(base) for base in node.bases}
    }
    assert found == {"DaoError", "UnconvergedError"}  # the latter never leaves a job


BLOCK_AND_IMPORT = """
import importlib, runpy, sys
blocked, modules = set({blocked!r}), {modules!r}
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError("no module named " + name, name=name)
sys.meta_path.insert(0, Block())
for name in modules:
    importlib.import_module(name)
del sys.modules["dao_flows.model.train"]
sys.argv = ["train", "--help"]
runpy.run_module("dao_flows.model.train", run_name="__main__", alter_sys=True)
"""


def test_the_model_floor_needs_no_other_package_to_be_there():
    kept = closure(MODEL_MAY_IMPORT)
    owners = {name: {d.lower().replace("_", "-") for d in found} for name, found in packages_distributions().items()}
    blocked = sorted(name for name, found in owners.items() if not found & kept and not name.startswith("_"))
    blocked = [name for name in blocked if name != "dao_flows"]
    assert {"pymatgen", "jobflow", "pyarrow", "pandas", "pydantic"} <= set(blocked)
    code = BLOCK_AND_IMPORT.format(blocked=blocked, modules=OF_MODEL)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--volume-scaling" in done.stdout


@pytest.mark.parametrize("module", ["dao_flows", "dao_flows.cli"])
def test_the_package_and_its_command_line_start_without_heavy_libraries(module):
    code = f"import sys, {module}; print(*{{'torch', 'pymatgen', 'jobflow', 'maggma', 'pandas'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_every_package_is_listed_for_the_wheel():
    in_tree = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == in_tree
    homes = {path.parent for path in MODULES.values()}
    assert homes == {MODULES[name].parent for name in in_tree}  # no module lies in a folder that is no package


def test_every_data_file_is_listed_for_the_wheel():
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    listed = {path for name, globs in data.items() for pattern in globs for path in MODULES[name].parent.glob(pattern)}
    lying = {
        path
        for name, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and not (name == "dao_flows" and "model" in path.parts)
    }
    assert listed == lying
    assert {path.name for path in listed} >= {"py.typed", "elements.csv"}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))


PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TOGETHER = {"dao_flows.makers": "makers", "dao_flows": "ground"}  # modules at the top of these floors are one box
FLOWS = {"dao_flows.makers.predict", "dao_flows.makers.pretrain"}  # but for those that put makers together
FLOORS = {name.rpartition(".")[2]: folder for name, folder in FOLDERS.items()}


def floor_and_box(module: str) -> tuple[str, str]:
    """Where a module is drawn: the floor, and its folder, or itself at the top of the model's floor."""
    folder = folder_of(module)
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
    rooms -= {"audit"}  # whose modules stand in its rooms
    table = PAGE.split(f"\n## `{floor}/`")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `([\w/]+?)/?` \|", table, re.MULTILINE))
    folders = {box for box in rooms if (FLOORS[floor] / box).is_dir()}
    assert folders <= told, folders - told
    assert told <= rooms, told - rooms


def test_every_path_that_it_names_exists():
    named = set(re.findall(r"`((?:model|makers|dao_flows|tests|docs|examples|benchmarks)/[\w./-]*)`", PAGE))
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_arrows_leave_out_what_follows_from_others():
    assert ("train", "training") in arrows("model")
    assert ("train", "crystals") not in arrows("model")


def texts() -> Iterator[tuple[str, str]]:
    """Pages and sources by their paths, but for those that tell of former times."""
    listed = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")]
    listed += [
        *MODULES.values(),
        *(path for name in ("benchmarks", "examples", "tests") for path in (ROOT / name).rglob("*.py")),
    ]
    for path in listed:
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_pages_and_sources_name_files_that_exist():
    pattern = re.compile(
        r"(?<![\w/.{-])((?:dao_flows|makers|model|tests|benchmarks|examples|docs)/[\w/-]+\.(?:py|md|csv))\b"
    )
    missing = {
        (name, found) for name, text in texts() for found in pattern.findall(text) if not (ROOT / found).exists()
    }
    assert missing == set()


def test_pages_and_sources_name_modules_that_exist():
    pattern = re.compile(r"(?<![\w./-])dao_flows(?:\.[a-z]\w*)+(?:\.[A-Z]\w*)?(?![\w/])")
    missing = set()
    for name, text in texts():
        if name in ("makers/jobs/renamed.py", "tests/test_house.py", "tests/dao_flows/test_before_rooms.py"):
            continue
        for found in pattern.findall(text):
            parts = found.split(".")
            modules = [".".join(parts[:k]) for k in range(len(parts), 0, -1)]
            known = next((each for each in modules if each in MODULES), "")
            if found in ENTRY_POINTS:
                continue
            rest = parts[known.count(".") + 1 :]
            if len(rest) > 1 or (rest and not re.search(rf"\b{rest[0]}\b", MODULES[known].read_text())):
                missing.add((name, found))
    assert missing == set()


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not a git checkout")
def test_no_file_names_a_registry_or_a_place_of_one_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    # in halves, so that this file does not name them either
    halves = ["py pi.org", "python hosted.org", "download.py torch.org", "anaconda .org", "index -url"]
    halves += ["/ work/", "/ var/tmp/", "/ root/", "/ home/"]
    forbidden = [half.replace(" ", "") for half in halves]
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file() or path.suffix in BINARY:
            continue
        text = path.read_text(encoding="utf-8")
        found = [word for word in forbidden if word in text]
        assert not found, f"{name} names {found}"
