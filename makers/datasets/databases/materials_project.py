"""The Materials Project's summary documents, by its own client, page by page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dao_flows.makers.datasets.readers.raw import Options, Raw, SourceError

KEY = "MP_API_KEY"
LICENCE = "CC-BY-4.0"  # https://next-gen.materialsproject.org/about/terms
PAGE = 500
FIELDS = ("material_id", "structure", "energy_above_hull", "formation_energy_per_atom")
TEXT = ("chemsys", "elements", "exclude_elements", "formula")
RANGES = ("energy_above_hull", "num_elements", "num_sites")


@dataclass(frozen=True)
class MaterialsProject:
    """`mp:` with a query, as in ?chemsys=Na-Cl; the key stands in MP_API_KEY.

    elements, exclude_elements, formula and chemsys are separated by commas; energy_above_hull=0,0.5, num_elements and
    num_sites are ranges.
    """

    options: Options
    properties: Sequence[str]

    location = "mp:"

    @property
    def name(self) -> str:
        """'mp', unless stated."""
        return self.options.name or "mp"

    @property
    def licence(self) -> str | None:
        """CC-BY-4.0, as its terms say."""
        return self.options.licence or LICENCE

    def identity(self) -> dict[str, Any]:
        """The query and the version of the database."""
        return {"query": dict(sorted(self.options.own.items())), "database": str(self._client.db_version)}

    def total(self) -> int | None:
        """Not known before the last page."""
        return None

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows by material id; after a restart the pages before `start` are not asked for."""
        page, skip = divmod(start, PAGE)
        query = self._query
        columns = tuple(dict.fromkeys([*FIELDS, *self.options.columns.values(), *self.properties]))
        while True:
            documents = self._page(query, page, columns)
            for offset, document in enumerate(documents[skip:], skip):
                yield self._raw(dict(document), page * PAGE + offset)
            if not documents:  # a page may be shorter than asked for
                return
            page, skip = page + 1, 0

    def _page(self, query: dict[str, Any], page: int, columns: tuple[str, ...]) -> list[Any]:
        try:
            found: list[Any] = self._client.materials.summary.search(
                **query,
                fields=list(columns),
                chunk_size=PAGE,
                num_chunks=1,
                _page=page + 1,
                _sort_fields="material_id",
            )
        except Exception as error:  # the client raises its own, requests' and pydantic's
            said = " ".join(str(error).replace(os.environ.get(KEY, KEY), "***").split())[:200]
            raise SourceError(f"the Materials Project does not answer: {said}") from None
        return found

    def _raw(self, document: dict[str, Any], position: int) -> Raw:
        values = self.options.values(document, self.properties)
        if "e_above_hull" in values:
            values.setdefault("e_above_hull_kind", "dft")
        structure = document.get("structure")
        if structure is None:
            return Raw(position, values=values, fault="it has no structure")
        return Raw(position, "structure", structure if isinstance(structure, dict) else structure.as_dict(), values)

    @property
    def _query(self) -> dict[str, Any]:
        query: dict[str, Any] = {}
        for name, text in self.options.own.items():
            if name in TEXT:
                parts = [part.strip() for part in text.split(",")]
                query[name] = parts if name in ("elements", "exclude_elements") or len(parts) > 1 else parts[0]
                continue
            try:
                low, high = (float(part) for part in text.split(","))
            except ValueError:
                raise SourceError(f"mp: {name} is a range, as in {name}=0,0.5, not {text!r}") from None
            query[name] = (low, high) if name == "energy_above_hull" else (int(low), int(high))
        return query

    @cached_property
    def _client(self) -> Any:
        if not os.environ.get(KEY):
            raise SourceError(f"mp: needs your key of the Materials Project in the environment variable {KEY}")
        try:
            from mp_api.client import MPRester
        except ImportError as error:
            raise SourceError("mp: needs the Materials Project's client: pip install 'dao-flows[mp]'") from error
        try:
            return MPRester(os.environ[KEY], use_document_model=False, mute_progress_bars=True)
        except Exception as error:  # the client raises its own and requests'
            said = " ".join(str(error).replace(os.environ[KEY], "***").split())[:200]
            raise SourceError(f"the Materials Project does not answer: {said}") from None
