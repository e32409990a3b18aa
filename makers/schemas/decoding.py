"""The one place where stored data become objects.

Documents of a shared database, crates, files of reference entries and datasets come from anybody. monty's decoder
imports and calls whatever they name; nothing else here may use it. What becomes an object is on a closed list:
pymatgen's structures (with their lattices and species), computed entries with their adjustments
(reference/entry_decoding.py), and the makers of atomate2's force fields, each built from its fields. Everything else
stays plain data, and names nothing any more.

jobflow decodes with monty what one job hands to the next. So a document that is taken from a store into a job must hold
no names at all: the fields of our documents that may hold any content refuse them (`unnamed`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pymatgen.core.structure import Structure

from dao_flows.model.errors import DaoError

if TYPE_CHECKING:
    from jobflow.core.maker import Maker

NUMBERS = {"array": "data", "Magmom": "moment"}  # field of the numbers of what is no more than these
REFERENCE = "OutputReference"  # of jobflow, which knows it by this alone
FORCE_FIELDS = "atomate2.forcefields.jobs"
CALCULATOR = ("force_field_name", "calculator_meta")  # by which atomate2 finds, and imports, a calculator
CALLS = frozenset({"run_vasp_kwargs", "run_cp2k_kwargs", "run_abinit_kwargs"})  # commands among them: never recorded
EVALUATED = re.compile(r"transform_(?:BNS|to_standard)_Pp(?:_abc)?\s+([^\n]*)", re.IGNORECASE)
PLAIN_AXES = re.compile(r"(['\"]?)[-+/abc0-9., ]{1,60};[-+/0-9., ]{1,40}\1|[?.]")
SHOWN = 60  # characters of a name in a message


class DecodingError(DaoError):
    """Data name an object that is not on the list, or are not what they should be; one line that says what."""


class UntrustedError(DecodingError):
    """A maker names modules that nobody said to trust. options: what would say so."""

    def __init__(self, modules: Collection[str]) -> None:
        named = [shown(module) for module in sorted(modules)]
        super().__init__(f"its maker is made of {', '.join(named)}, which is not known here")
        self.options = " ".join(f"--trust {module}" for module in named)


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings in it, itself too, however deep."""
    pending = [value]
    while pending:
        held = pending.pop()
        if isinstance(held, Mapping):
            yield held
            pending += held.values()
        elif isinstance(held, list | tuple):
            pending += held


def named(value: Any) -> str | None:
    """What a decoder of monty's would import, call or look up in a value, the first that is found; None in plain data.

    As text for a message.
    """
    for held in objects(value):
        for key in held:
            if isinstance(key, str) and key.startswith("@"):
                name = held.get("@class", held.get("@callable", ""))
                return shown(f"{held.get('@module')}.{name}")
    return None


def inert(value: Any) -> Any:
    """The same data with nothing in it that monty takes for an object.

    Of an array of numpy's and a magnetic moment of pymatgen's the numbers, of all others the fields.
    """
    if isinstance(value, Mapping):
        if (name := NUMBERS.get(str(value.get("@class")))) is not None and "@module" in value:
            return inert(value.get(name))
        return {key: inert(item) for key, item in value.items() if not str(key).startswith("@")}
    if isinstance(value, list | tuple):
        return [inert(item) for item in value]
    return value


def unnamed(value: Any) -> Any:
    """The value as it is, for a document's field of any content. Raises DecodingError for one that names objects.

    jobflow decodes what a job hands to the next one, the document as a whole, and what such a field names with it.
    """
    if (name := named(value)) is not None:
        raise DecodingError(f"it names {name}, where plain data stand")
    return value


def unreferenced(value: Any) -> Any:
    """The value as it is, for recorded settings. Raises DecodingError for those that hold an OutputReference.

    jobflow decodes all of a job's argument in which it finds one.
    """
    if any(held.get("@class") == REFERENCE for held in objects(value)):
        raise DecodingError("it holds a reference to the output of a job, which is no data")
    return value


Real = int | float  # whichever it was: hashes are over what is stored


class _Species(BaseModel):
    element: str
    occu: Real
    oxidation_state: Real | None = None
    spin: Real | None = None


class _Site(BaseModel):
    species: list[_Species] = Field(min_length=1)
    abc: tuple[Real, Real, Real]
    properties: dict[str, Any] | None = None
    label: str | None = None


class _Lattice(BaseModel):
    matrix: tuple[tuple[Real, Real, Real], tuple[Real, Real, Real], tuple[Real, Real, Real]]
    pbc: tuple[bool, bool, bool] = (True, True, True)


class _Structure(BaseModel):
    """What pymatgen reads of a structure's dictionary, and does not check."""

    lattice: _Lattice
    sites: list[_Site]
    charge: Real | None = None
    properties: dict[str, Any] | None = None


_MOMENT: TypeAdapter[Any] = TypeAdapter(None | Real | tuple[Real, Real, Real])  # which pymatgen calculates with


def structure(data: Any) -> Structure:
    """A structure from its dictionary, as `Structure.as_dict` writes it, or the structure itself.

    Its properties, and those of its sites, are plain data, whatever they name. Raises DecodingError for what is none,
    and for a magnetic moment that is none.
    """
    if isinstance(data, Structure):
        return data
    if not isinstance(data, Mapping):
        raise DecodingError(f"it holds a {type(data).__name__} in the place of a structure")
    try:
        fields = _Structure.model_validate(dict(data))
        fields.properties = _plain(fields.properties)
        for site in fields.sites:
            site.properties = _plain(site.properties)
            _MOMENT.validate_python((site.properties or {}).get("magmom"))
        return Structure.from_dict(fields.model_dump(exclude_unset=True))
    except ValidationError as error:
        raise DecodingError(f"it holds a structure that is none: {_first(error)}") from None
    except Exception as error:  # what pymatgen raises depends on what is wrong
        said = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise DecodingError(f"it holds a structure that is none: {said}") from None


def unevaluated(cif: str) -> str:
    """A CIF as it is. Raises DecodingError for one in which pymatgen would evaluate more than a change of axes.

    What a magnetic CIF gives for this goes to Python as an expression, of digits and signs alone: enough for 9**9**9.
    """
    for found in EVALUATED.finditer(cif):
        if PLAIN_AXES.fullmatch(found[1].strip()) is None:
            raise DecodingError(f"its change of axes is none: {shown(found[1].strip())}")
    return cif


def _plain(properties: dict[str, Any] | None) -> dict[str, Any] | None:
    return properties and {name: inert(value) for name, value in properties.items() if not name.startswith("@")}


Number = Annotated[float | int | bool | None, Field()]


class _ForceField(BaseModel):
    """Fields of atomate2's force-field makers that a record may set. Texts could name files: there are none but these.

    calculator_meta follows from the name.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    force_field_name: str
    calculator_meta: str = ""
    calculator_kwargs: dict[str, Number] = Field(default_factory=dict)
    ionic_step_data: list[str] | None = None
    store_trajectory: Literal["no", "partial", "full"] = "no"
    tags: list[str] | None = None
    task_document_kwargs: dict[str, Number] = Field(default_factory=dict)
    relax_cell: bool = True
    relax_shape: bool = False
    fix_symmetry: bool = False
    symprec: float | None = None
    steps: int = 500
    relax_kwargs: dict[str, Number] = Field(default_factory=dict)
    optimizer_kwargs: dict[str, Number | Literal["FIRE", "BFGS", "LBFGS", "LBFGSLineSearch", "MDMin"]] = Field(
        default_factory=dict
    )


MAKERS = ("ForceFieldRelaxMaker", "ForceFieldStaticMaker")  # of FORCE_FIELDS


def maker(settings: Any, trusted: Collection[str] = ()) -> Maker:
    """The maker of a calculation from its recorded settings.

    trusted: modules that the user trusts; makers of these, and of no module below them, are what the record says they
    are. Raises UntrustedError for a maker of other modules, DecodingError for one that cannot be had.
    """
    if not isinstance(settings, Mapping):
        raise DecodingError("its settings are those of no maker")
    module, name = str(settings.get("@module")), str(settings.get("@class"))
    try:
        if module == FORCE_FIELDS and name in MAKERS:
            return _force_field(name, settings)
    except DecodingError:
        if module not in trusted:
            raise
    return _of_trusted(settings, trusted)


def _force_field(name: str, settings: Mapping[str, Any]) -> Maker:
    from atomate2.forcefields import jobs
    from atomate2.forcefields.utils import _DEFAULT_CALCULATOR_KWARGS, MLFF

    label = _force_field_named(settings.get("force_field_name"))
    told = {key: value for key, value in settings.items() if not key.startswith("@")}
    if isinstance(keywords := told.get("calculator_kwargs"), Mapping):  # atomate2's own, texts too, come of themselves
        own = _DEFAULT_CALCULATOR_KWARGS.get(MLFF(label), {})
        told["calculator_kwargs"] = {key: value for key, value in keywords.items() if own.get(key) != value}
    makers = {made.__name__: made for made in (jobs.ForceFieldRelaxMaker, jobs.ForceFieldStaticMaker)}
    try:
        fields = _ForceField.model_validate(told)
    except ValidationError as error:
        raise DecodingError(f"its {name} has settings that are not known here: {_first(error)}") from None
    given = fields.model_dump(exclude_unset=True, exclude={"calculator_meta", "force_field_name"})
    if isinstance(given.get("ionic_step_data"), list):
        given["ionic_step_data"] = tuple(given["ionic_step_data"])
    built: Maker = makers[name](force_field_name=label, **given)
    return built


def _force_field_named(name: Any) -> str:
    """A force field's name as atomate2's list has it: it takes others, too, and imports what they name."""
    from dao_flows.makers.models.atomate import names

    label = str(name).removeprefix("MLFF.")
    if (known := names().get(label)) is None:
        raise DecodingError(f"atomate2 has no force field {shown(label)}")
    return known


def _of_trusted(settings: Mapping[str, Any], trusted: Collection[str]) -> Maker:
    """A maker all of whose parts are of trusted modules, by monty's decoder."""
    from jobflow.core.maker import Maker
    from monty.json import MontyDecoder

    modules = set()
    for held in objects(settings):
        for field in CALCULATOR:
            if held.get(field) is not None:
                _force_field_named(held[field])
        if set(held) == {"sha256"} or isinstance(held.get("pseudos"), list):
            raise DecodingError("its settings are recorded as hashes in part")
        if "@callable" in held or "@bound" in held:
            raise DecodingError("its settings name a function")
        if calls := CALLS.intersection(held):
            raise DecodingError(f"its settings say how a code is called ({min(calls)}), which no record does")
        if "@module" in held:
            modules.add(str(held["@module"]))
    if unknown := modules - set(trusted):
        raise UntrustedError(unknown)
    try:
        built = MontyDecoder().process_decoded(dict(settings))
    except Exception as error:  # whatever the user's own classes raise
        said = " ".join(f"{type(error).__name__} {error}".split())[:100]
        raise DecodingError(f"its maker cannot be made again: {said}") from None
    if not isinstance(built, Maker):
        raise DecodingError("its settings are those of no maker")
    return built


def shown(text: str) -> str:
    """The beginning of a text, for a message."""
    return "".join(c if c.isprintable() else "?" for c in text[:SHOWN])


def _first(error: ValidationError) -> str:
    """The first thing that pydantic says, without the input."""
    said = error.errors(include_url=False, include_input=False)[0]
    return f"{shown('/'.join(str(part) for part in said['loc']))}: {' '.join(said['msg'].split())[:100]}"
