"""Configuration files of the libraries: what is wrong in one, in a line that shows none of its values.

jobflow, FireWorks and atomate2 read theirs when they are imported, and their own messages quote what stands in them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple


class Configuration(NamedTuple):
    """Where a library's settings stand.

    reader: the module and the function (empty: any) that read them; settings: the class that holds them, if any.
    """

    library: str
    reader: tuple[str, str]
    settings: str
    variable: str
    default: str
    prefix: str  # of environment variables that hold one setting each; empty: there are none


JOBFLOW = Configuration(
    "jobflow", ("jobflow.settings", ""), "JobflowSettings", "JOBFLOW_CONFIG_FILE", "~/.jobflow.yaml", "JOBFLOW_"
)
PYMATGEN = Configuration(
    "pymatgen", ("pymatgen.core", "_load_pmg_settings"), "", "PMG_CONFIG_FILE", "~/.config/.pmgrc.yaml", "PMG_"
)
KNOWN = (
    JOBFLOW,
    PYMATGEN,
    Configuration("FireWorks", ("fireworks.fw_config", ""), "", "FW_CONFIG_FILE", "~/.fireworks/FW_config.yaml", ""),
    Configuration(
        *("atomate2", ("atomate2.settings", ""), "Atomate2Settings"),
        *("ATOMATE2_CONFIG_FILE", "~/.atomate2.yaml", "ATOMATE2_"),
    ),
    Configuration("ASE", ("ase.config", ""), "", "ASE_CONFIG_PATH", "~/.config/ase/config.ini", ""),
    Configuration(
        "emmet", ("emmet.core.settings", ""), "EmmetSettings", "EMMET_CONFIG_FILE", "~/.emmet.json", "EMMET_"
    ),
)
YAML = (".yaml", ".yml", ".json")
PATHS = ("config_file_path", "config_paths", "file_path")  # what readers call the file, in their own variables


def fault(error: BaseException) -> str | None:
    """One line for an error that came of reading a library's settings; None for any other."""
    for each in _chain(error):
        if isinstance(each, ImportError):
            if each.name == "pymatgen.core" and "'SETTINGS'" in str(each):  # made from them when it is asked for
                return described(PYMATGEN, each)
            continue
        frames = list(_frames(each.__traceback__))
        known = next((known for frame in frames for known in KNOWN if _reads(frame, known)), None)
        if known is not None:
            found = [frame.f_locals[name] for frame in frames for name in PATHS if name in frame.f_locals]
            path = found[-1] if found else None
            return described(known, each, path[0] if isinstance(path, list) and path else path)
    return None


def _reads(frame: FrameType, of: Configuration) -> bool:
    """Whether a library reads its settings in this frame, itself or through pydantic."""
    module, function = of.reader
    if frame.f_globals.get("__name__") == module:
        return function in ("", frame.f_code.co_name)
    if not of.settings or not str(frame.f_globals.get("__name__")).startswith("pydantic_settings."):
        return False
    holder = frame.f_locals.get("self", frame.f_locals.get("__pydantic_self__"))
    return of.settings in (type(holder).__name__, getattr(getattr(holder, "settings_cls", None), "__name__", ""))


def described(of: Configuration, error: BaseException, path: object = None) -> str:
    """What is wrong with a library's settings, where it stands, and none of what they hold.

    path: the file, where it is known.
    """
    from pydantic import ValidationError

    place = Path(str(path or os.environ.get(of.variable) or of.default)).expanduser()
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
    else:
        said = re.search(r'field "(\w+)" from source "\w*Env', str(error))  # pydantic-settings'
        field = said.group(1) if said else ""
    if field and (variable := _variable(of, field)) is not None:
        return f"the environment variable {variable} cannot be used: {what(error)}"
    problem = (_problem(place) if place.suffix in YAML else None) or what(error)
    if isinstance(error, OSError) and error.filename is not None:
        same = Path(str(error.filename)).expanduser().absolute() == place.absolute()
        problem = problem if same else f"a file that it names cannot be read: {problem}"
    return f"the {of.library} configuration {place} cannot be used: {problem}"


def what(error: BaseException) -> str:
    """What an error says of a configuration, in words of ours: the library's would quote what stands in it."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            return f"there is no setting {name}"
        if first["type"] in ("value_error", "assertion_error"):
            return f"the value of {name} is none that it can have" if name else "its settings do not fit together"
        return f"{name}: {first['msg']}"
    if (mark := getattr(error, "problem_mark", None)) is not None:
        said = str(getattr(error, "problem", "") or "")
        problem = "a tab: indent by spaces" if r"'\t'" in said else re.split(r"['\"]", said)[0].strip()
        return f"line {mark.line + 1}, column {mark.column + 1}: not YAML: {problem or 'it cannot be read'}"
    if isinstance(error, UnicodeError):
        return "not text in UTF-8"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if found := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
        return f"a store in it takes no setting {found.group(1)}"
    if isinstance(error, TypeError) and (
        found := re.search(r"missing \d+ required [\w-]+ arguments?: (.+)$", str(error))
    ):
        return f"a store in it lacks {found.group(1)}"
    if found := re.search(r"unknown parameter: (\w+)", str(error)):  # FireWorks': the name of a setting
        return f"there is no setting {found.group(1)}"
    if isinstance(error, KeyError) and error.args:
        name = str(error.args[0])
        if re.fullmatch(r"\w*Store", name):
            return f"there is no store of type {name}"
        return f"a store in it lacks {name}" if name in ("docs_store", "type") else "a store of it is of no known type"
    if re.search(r"field \"\w+\" from source", str(error)):
        return "it is not JSON"
    return f"its settings are none that the library can use ({type(error).__name__})"


def _problem(path: Path) -> str | None:
    """What is wrong with the file itself, whatever it is to hold."""
    import yaml

    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_plain_loader())  # noqa: S506  # a safe one
    except FileNotFoundError:
        return None
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        return what(error)
    except (ValueError, RecursionError):
        return "not YAML"
    if content is None:
        return "it holds nothing: remove it, or write settings into it"
    if not isinstance(content, Mapping):
        return f"it is to hold settings as NAME: VALUE, not a {'list' if isinstance(content, list) else 'single value'}"
    return None


def _variable(of: Configuration, field: str) -> str | None:
    """The environment variable that holds a setting, if one does."""
    wanted = f"{of.prefix}{field}".upper()
    return next((name for name in os.environ if of.prefix and name.upper() == wanted), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _plain_loader() -> type:
    """YAML whose tags are read as plain data: they may name anything, and nothing of it is made."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def construct(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node)
        return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else node.value

    Loader.add_multi_constructor("", construct)
    return Loader
