"""Options of a command made from the fields of a request, and the request made from what is typed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from dao_flows.api.prediction.request import Alternative, options
from dao_flows.errors import InputError


def spread(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with an option for each field that has one, of each parameter that is a request.

    A field, or a parameter, with alternatives (`--bf16`, `--auto-bf16`) has a flag for each of its values. Called by
    names alone. Raises InputError where two of them are given.
    """
    asked = list(inspect.signature(command, eval_str=True).parameters.values())

    @wraps(command)
    def call(**given: Any) -> Any:
        return command(**{each.name: _value(each, given) for each in asked})

    parameters = [option for each in asked for field in _fields(each) for option in _options(field)]
    return with_parameters(call, parameters)


def with_parameters(command: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """The command with these parameters for typer to read, all given by name."""
    by_name = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    read: Any = command
    read.__signature__ = inspect.Signature(by_name)
    read.__annotations__ = {each.name: each.annotation for each in by_name}
    return command


def _request(parameter: inspect.Parameter) -> Any:
    """The class of a parameter that is a request; None for another."""
    return parameter.annotation if is_dataclass(parameter.annotation) else None


def _fields(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Of a request, its fields that have options; of any other parameter, itself."""
    if (request := _request(parameter)) is None:
        return [parameter]
    annotations = get_type_hints(request, include_extras=True)
    found = [p.replace(annotation=annotations[p.name]) for p in inspect.signature(request).parameters.values()]
    return [each for each in found if options(each.annotation)]


def _options(field: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """A field as typer is to read it: what is of several types is typed as text."""
    found = options(field.annotation)
    others = [each for each in found if isinstance(each, Alternative)]
    if not found:
        yield field
        return
    kind = bool if others else _typed(get_args(field.annotation)[0])
    yield field.replace(annotation=Annotated[kind, found[0]])
    for each in others:
        yield field.replace(name=_flag(field, each), default=False, annotation=Annotated[bool, each.option])


def _typed(kind: Any) -> Any:
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if len(set(members) - {NoneType}) < 2:
        return kind
    return str | None if NoneType in members else str


def _value(parameter: inspect.Parameter, given: Mapping[str, Any]) -> Any:
    """The argument of the command: a request of what is given, or what is given."""
    if (request := _request(parameter)) is not None:
        return request(**{each.name: _value(each, given) for each in _fields(parameter)})
    others = [each for each in options(parameter.annotation) if isinstance(each, Alternative)]
    values = {_flag(parameter, each): each.value for each in others if given[_flag(parameter, each)]}
    value = given.get(parameter.name, parameter.default)
    if others and value:
        values[parameter.name] = value
    if len(values) > 1:
        names = (f"--{name.replace('_', '-')}" for name in reversed(values))
        raise InputError(f"{' and '.join(names)} exclude each other")
    return next(iter(values.values()), value)


def _flag(field: inspect.Parameter, alternative: Alternative) -> str:
    return f"{alternative.value}_{field.name}"
