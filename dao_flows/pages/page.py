"""One page in one file, which opens without a network: its style, script and data stand in it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, PrefixLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup


def render(package: str, title: str, data: Any, **content: Any) -> str:
    """A package's page.html with its page.css and page.js. What is no Markup is escaped, and so is the data's JSON.

    package: where the three lie; data: plain JSON, which the script reads; content: what page.html names. Raises
    ValueError for data with a NaN.
    """
    loader = PrefixLoader({"pages": PackageLoader(__package__, ""), "own": PackageLoader(package, "")})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("own/page.html").render(
        title=title,
        style=_asset(package, "page.css"),
        script=_asset(package, "page.js"),
        data=htmlsafe_json_dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False),
        **content,
    )


def _asset(package: str, name: str) -> Markup:
    return Markup((files(package) / name).read_text(encoding="utf-8"))  # noqa: S704  # a file of ours
