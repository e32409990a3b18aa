"""Keeping credentials out of messages, records and documents."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dao_flows.model.files.places import is_there

SHORTEST_SECRET = 4  # replacing shorter strings would maim the rest of the message
SHORTEST_OF_ENVIRONMENT = 8  # so that a switch such as TOKEN_CHECK=true is not taken for one
LONGEST_WORD = 24  # letters; a longer run of them is no word
FORMULA = re.compile(r"(?:\(*[A-Z][a-z]?\d*\)*\d*)+")
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_KEY|MONGO\w*URI", re.IGNORECASE)

_secrets: set[str] = set()


def remember_secret(value: str | None) -> None:
    """Never show this value again in any message of this process."""
    if value and len(value) >= SHORTEST_SECRET:
        _secrets.update({value, unquote(value)})


def remember_uri(uri: str) -> None:
    """Never show the credentials of this URI."""
    try:
        remember_secret(urlsplit(uri).password)
    except ValueError:  # not a URI that can be parsed: `mask` still hides what stands before its @
        return


def remember_environment() -> None:
    """Never show the values of environment variables that are named like secrets, nor credentials of URIs in others."""
    for value in os.environ.values():
        if "://" in value:
            remember_uri(value)
    for value in environment_secrets().values():
        remember_secret(value)


def environment_secrets() -> dict[str, str]:
    """Environment variables that are named like secrets, but for those that name a file with one."""
    return {
        name: value
        for name, value in os.environ.items()
        if SECRET_NAME.search(name)
        and len(value) >= SHORTEST_OF_ENVIRONMENT
        and not (Path(value).is_absolute() and is_there(value))
    }


def remember_store(store: Any) -> None:
    """Never show the credentials of a store, nor of those that it is made of."""
    from maggma.core import Store

    pending: list[Any] = [store]
    seen: set[int] = set()
    while pending:
        held = pending.pop()
        if id(held) in seen or not isinstance(held, Mapping | Store):
            continue
        seen.add(id(held))
        for name, value in (held if isinstance(held, Mapping) else vars(held)).items():
            if isinstance(value, str):
                if "://" in value:
                    remember_uri(value)
                elif SECRET_NAME.search(str(name)):
                    remember_secret(value)
            else:
                pending.append(value)


def mask(text: str) -> str:
    """The text without credentials: user:password of URIs, password=…, and every remembered secret."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"input_value=.*?(?=, input_type=)", "input_value=***", text, flags=re.DOTALL)  # pydantic's
    text = re.sub(r"(\w://)[^\s]*@", r"\1***@", text)
    secretive = r"([\w.-]*(?:password|passwd|secret|token|api_?key)[\w.-]*[\"']?\s*[=:]\s*[\"']?)[^\s\"',&;]+"
    return storable(re.sub(secretive, r"\1***", text, flags=re.IGNORECASE))


def storable(text: str) -> str:
    """The text, with escapes for bytes of names that are no UTF-8: no store and no JSON takes them."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(error: BaseException, limit: int = 300) -> str:
    """The error's first words on one line, masked."""
    said = f"unknown name {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    text = " ".join(mask(said).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def holds_secret(text: str) -> bool:
    """Whether credentials of a URI stand in it, or a remembered secret of at least SHORTEST_OF_ENVIRONMENT letters."""
    if re.search(r"\w://[^\s\"/@:]*:[^\s\"/@]+@", text):
        return True
    return any(carries(text, secret) for secret in _secrets if len(secret) >= SHORTEST_OF_ENVIRONMENT)


def carries(text: str, secret: str) -> bool:
    """Whether a secret stands in a text, which may be JSON, as one.

    What may stand in any text by chance (`is_word`) counts where a name before it says so: token=…, "password": "…".
    """
    written = {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    there = [form for form in written if form in text]
    if not there or not is_word(secret):
        return bool(there)
    named = rf"(?:{SECRET_NAME.pattern})[\w.-]*\\?[\"']?\s*[=:]\s*\\?[\"']?"
    return any(re.search(rf"{named}{re.escape(form)}(?!\w)", text, re.IGNORECASE) for form in there)


def is_word(text: str) -> bool:
    """Whether a text may stand in another by chance: words (dao_flows), a number or date, or a chemical formula."""
    parts = [part for part in re.split(r"[\W_]+", text) if part]
    letters = all(part.isalpha() for part in parts) and max(map(len, parts), default=0) < LONGEST_WORD
    return letters or all(part.isdigit() for part in parts) or _is_formula(text)


def _is_formula(text: str) -> bool:
    if FORMULA.fullmatch(text) is None:
        return False
    from pymatgen.core.periodic_table import Element

    return all(Element.is_valid_symbol(symbol) for symbol in re.findall(r"[A-Z][a-z]?", text))
