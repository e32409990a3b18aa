"""Keeping credentials out of messages, records and documents."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

SHORTEST_SECRET = 4  # replacing shorter strings would maim the rest of the message
SHORTEST_OF_ENVIRONMENT = 8  # so that a switch such as TOKEN_CHECK=true is not taken for one
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
    for name, value in os.environ.items():
        if "://" in value:
            remember_uri(value)
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_OF_ENVIRONMENT:
            remember_secret(value)


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
    return re.sub(secretive, r"\1***", text, flags=re.IGNORECASE)


def one_line(error: BaseException, limit: int = 300) -> str:
    """The error's first words on one line, masked."""
    said = f"unknown name {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    text = " ".join(mask(said).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def holds_secret(text: str) -> bool:
    """Whether credentials of a URI stand in it, or a remembered secret of at least SHORTEST_OF_ENVIRONMENT letters."""
    if re.search(r"\w://[^\s\"/@:]*:[^\s\"/@]+@", text):
        return True
    secrets = (secret for secret in _secrets if len(secret) >= SHORTEST_OF_ENVIRONMENT)
    return any(secret in text or json.dumps(secret, ensure_ascii=False)[1:-1] in text for secret in secrets)
