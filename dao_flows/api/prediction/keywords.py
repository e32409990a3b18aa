"""A function that is given a request, called with the request's fields as keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from .request import help_texts

Keywords = ParamSpec("Keywords")
Given = TypeVar("Given")
Request = TypeVar("Request")
Result = TypeVar("Result")


def keywords_of(
    request: Callable[Keywords, Request],
) -> Callable[[Callable[[Given, Request], Result]], Callable[Concatenate[Given, Keywords], Result]]:
    """Decorates a function of something and a request, a frozen dataclass; its signature and help name the fields."""

    def decorate(function: Callable[[Given, Request], Result]) -> Callable[Concatenate[Given, Keywords], Result]:
        assert isinstance(request, type)
        types = get_type_hints(request)
        [first, _] = inspect.signature(function).parameters.values()
        fields = [p.replace(annotation=types[p.name]) for p in inspect.signature(request).parameters.values()]
        signature = inspect.signature(function).replace(parameters=[first, *fields])

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Result:
            given = signature.bind(*args, **kwargs).arguments
            return function(given.pop(first.name), request(**given))

        described: Any = call
        described.__signature__ = signature
        texts = "\n".join(f"    {name}: {text}" for name, text in help_texts(request).items())
        described.__doc__ = f"{inspect.getdoc(function)}\n\n{texts}\n"
        return call

    return decorate
