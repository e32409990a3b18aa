"""Whether the pages of an OPTIMADE answer are all there, and come to an end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

from dao_flows.makers.datasets.readers.raw import SourceError

MOST = 100_000_000  # rows of one query: more than any database has


class Pages:
    """The pages of one query, in their order. rows: how many came so far."""

    def __init__(self, host: str) -> None:
        self.host, self.rows = host, 0
        self._stated: int | None = None
        self._links: set[str] = set()
        self._contents: set[bytes] = set()

    def take(self, page: str, answer: Mapping[str, Any]) -> str | None:
        """Count a page's rows; the link to the next one, None at the end.

        Raises SourceError for pages that repeat, lead nowhere, or end before or go on behind the stated total.
        """
        rows, meta, links = answer.get("data"), answer.get("meta") or {}, answer.get("links") or {}
        if not isinstance(rows, list) or not isinstance(meta, Mapping) or not isinstance(links, Mapping):
            raise SourceError(f"{self.host} does not answer as an OPTIMADE server: a page has no list of data")
        self.rows += len(rows)
        self._stated = max((n for n in (self._stated, stated_total(meta)) if n is not None), default=None)
        following = links.get("next")
        link = following.get("href") if isinstance(following, Mapping) else following
        self._check_content(rows, bool(link))
        if (self._stated is not None and self.rows > self._stated) or self.rows > MOST:
            raise SourceError(f"{self.host} states {self._stated} structures and gives more: its pages have no end")
        if not link:
            self._check_end(meta)
            return None
        link = urljoin(page, str(link))
        self._links.add(page)
        if link in self._links:
            raise SourceError(f"{self.host} leads back to a page that it gave: its pages have no end")
        return link

    def _check_content(self, rows: list[Any], more: bool) -> None:
        if not rows and more:
            raise SourceError(f"{self.host} gives an empty page and a link to another: its pages have no end")
        content = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).digest()
        if rows and content in self._contents:
            raise SourceError(f"{self.host} gives the same page again: its pages have no end")
        self._contents.add(content)

    def _check_end(self, meta: Mapping[str, Any]) -> None:
        """Raises SourceError if more is there than came."""
        if self._stated is not None and self.rows < self._stated:
            raise SourceError(
                f"{self.host} states {self._stated} structures and gave {self.rows}, with no link to the others: "
                "ask for parts of them with ?filter=…, or try again later"
            )
        if meta.get("more_data_available") is True:
            raise SourceError(
                f"{self.host} has more than the {self.rows} structures that it gave, and no link to them: "
                "ask for parts of them with ?filter=…, or try again later"
            )


def stated_total(meta: Mapping[str, Any]) -> int | None:
    """The rows of a query, as the provider states them."""
    count = meta.get("data_returned")
    if isinstance(count, str) and count.strip().isascii() and count.strip().isdecimal():
        return int(count)  # some write JSON from text
    if isinstance(count, bool) or not isinstance(count, int | float) or count != count // 1:
        return None
    return int(count)
