"""Structures of any OPTIMADE provider, page by page (https://www.optimade.org, specification 1.x)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests
from pymatgen.core.composition import Composition
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from dao_flows.makers.datasets.readers.raw import Options, Raw, SourceError
from dao_flows.makers.science.chemistry import element_of

from .optimade_pages import Pages, stated_total

PROVIDERS = "https://providers.optimade.org"
TIMEOUT = (10, 120)  # s, to connect and to answer
PAGE = 100
STRUCTURE = ("lattice_vectors", "cartesian_site_positions", "species_at_sites", "species")
CHECKED = ("dimension_types", "structure_features", "nperiodic_dimensions", "nsites", "chemical_formula_reduced")
KEPT = ("response_fields", "filter")  # what a link to the next page must not lose
# fields beyond the specification that providers document, in eV/atom
KNOWN = {
    "alexandria": {
        "e_above_hull": "_alexandria_hull_distance",
        "formation_energy_per_atom": "_alexandria_formation_energy_per_atom",
    },
    "jarvis": {"e_above_hull": "_jarvis_ehull", "formation_energy_per_atom": "_jarvis_formation_energy_peratom"},
    "oqmd": {"e_above_hull": "_oqmd_stability", "formation_energy_per_atom": "_oqmd_delta_e"},
}


@dataclass(frozen=True)
class OptimadeSource:
    """`optimade:PROVIDER`, `optimade:PROVIDER/DATABASE` or `optimade:URL`, with ?filter=… in OPTIMADE's language."""

    where: str
    options: Options
    properties: Sequence[str]

    @property
    def location(self) -> str:
        """As it was given."""
        return f"optimade:{self.where}"

    @property
    def name(self) -> str:
        """The provider's."""
        return self.options.name or (urlsplit(self.where).hostname or self.where).replace("/", "-")

    @property
    def licence(self) -> str | None:
        """As stated, else as the provider's /info says."""
        if self.options.licence:
            return self.options.licence
        told = self._get(f"{self._base}/info").get("data", {}).get("attributes", {})
        names = told.get("available_licenses") or told.get("available_licenses_for_entries")
        if names:
            return ", ".join(names)
        link = told.get("license")
        return link.get("href") if isinstance(link, dict) else link

    def identity(self) -> dict[str, Any]:
        """The database and the filter."""
        return {"url": self._base, "filter": self._filter}

    def total(self) -> int | None:
        """As the provider says, if it does."""
        found = self._get(f"{self._base}/structures", self._query | {"page_limit": "1"}).get("meta", {})
        return stated_total(found)

    def read(self, start: int = 0) -> Iterator[Raw]:
        """Rows in the provider's order. After a restart the pages before `start` are asked for again.

        Raises SourceError if the pages do not end with as many rows as the provider states.
        """
        pages = Pages(self._host)
        page: str | None = f"{self._base}/structures"
        query: Mapping[str, str] | None = self._query
        while page:
            try:
                answer = self._get(page, query)
            except SourceError as error:
                if query is None or "page_limit" not in query or "page_limit" not in str(error):
                    raise
                query = {name: value for name, value in query.items() if name != "page_limit"}  # its pages are smaller
                continue
            first = pages.rows
            following = pages.take(page, answer)
            for position, entry in enumerate(answer.get("data") or [], first):
                if position >= start:
                    yield self._raw(entry, position)
            page, query = (_with(following, self._query) if following else None), None

    def _raw(self, entry: Any, position: int) -> Raw:
        try:
            attributes = entry["attributes"]
            record = {**attributes, "material_id": entry.get("id")}
            values = self._options.values(record, self.properties)
            if "e_above_hull" in values:
                values.setdefault("e_above_hull_kind", "dft")
        except (TypeError, KeyError, AttributeError):
            return Raw(position, fault="it is no OPTIMADE entry")
        try:
            return Raw(position, "sites", sites_of(attributes), values)
        except (TypeError, KeyError, IndexError) as error:
            return Raw(position, values=values, fault=f"its structure is not complete: {error}")
        except ValueError as error:
            return Raw(position, values=values, fault=str(error))

    @property
    def _host(self) -> str:
        return str(urlsplit(self._base).hostname)

    @property
    def _filter(self) -> str:
        return self.options.own.get("filter", "")

    @cached_property
    def _options(self) -> Options:
        """With the fields that this provider is known to have."""
        known = next((fields for name, fields in KNOWN.items() if name in self.where.lower()), {})
        return Options(columns={**known, **self.options.columns})

    @property
    def _query(self) -> dict[str, str]:
        fields = [*STRUCTURE, *CHECKED, *self._options.columns.values(), *self.properties]
        query = {"response_fields": ",".join(dict.fromkeys(fields)), "page_limit": str(PAGE)}
        return query | ({"filter": self._filter} if self._filter else {})

    @cached_property
    def _base(self) -> str:
        """The versioned base URL. Raises SourceError for a provider that is not known."""
        if "://" in self.where:
            return _versioned(self.where)
        provider, _, database = self.where.partition("/")
        index = self._child(f"{PROVIDERS}/v1/links", provider, "provider")
        links = self._links(f"{_versioned(index)}/links")
        children = {
            entry["id"]: entry["attributes"]["base_url"]
            for entry in links
            if entry["attributes"].get("link_type") == "child" and entry["attributes"].get("base_url")
        }
        if not database and len(children) == 1:
            database = next(iter(children))
        if database not in children:
            known = ", ".join(f"optimade:{provider}/{name}" for name in sorted(children)) or "none"
            raise SourceError(f"{provider} has several databases, choose one of: {known}")
        return _versioned(_address(children[database]))

    def _child(self, url: str, wanted: str, what: str) -> str:
        known = {entry["id"]: entry["attributes"].get("base_url") for entry in self._links(url)}
        if not known.get(wanted):
            names = ", ".join(sorted(name for name, base in known.items() if base))
            raise SourceError(f"{wanted!r} is no OPTIMADE {what}; there are: {names}")
        return _address(known[wanted])

    def _links(self, url: str) -> list[dict[str, Any]]:
        return list(self._get(url).get("data") or [])

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        again = Retry(total=5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=again))
        return session

    def _get(self, url: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """An answer's JSON. Raises SourceError in one line."""
        host = urlsplit(url).hostname
        try:
            response = self._session.get(url, params=query, timeout=TIMEOUT)
            answer = response.json()
        except requests.JSONDecodeError as error:
            raise SourceError(f"{host} does not answer as an OPTIMADE server: is {self.where} its base URL?") from error
        except requests.RequestException as error:
            raise SourceError(f"{host} cannot be reached ({type(error).__name__}): try again later") from error
        if response.status_code >= 400 or not isinstance(answer, dict):
            told = answer.get("errors") if isinstance(answer, dict) else None
            said = told[0].get("detail", "") if isinstance(told, list) and told and isinstance(told[0], dict) else ""
            raise SourceError(f"{host} refuses the query ({response.status_code}): {' '.join(str(said).split())[:200]}")
        return answer


def sites_of(attributes: Mapping[str, Any]) -> tuple[list[str], Any, Any]:
    """Symbols, lattice (3 × 3, Å) and Cartesian positions (n × 3, Å).

    Raises ValueError for what is no ordered crystal, or is not the one that nsites and the formula tell of.
    """
    if attributes.get("dimension_types") not in (None, [1, 1, 1]) or attributes.get("nperiodic_dimensions", 3) not in (
        None,
        3,
    ):
        raise ValueError("it is not periodic in three directions")
    if features := attributes.get("structure_features"):
        raise ValueError(f"it has {', '.join(map(str, features))}")
    symbols: dict[str, str | None] = {}
    for species in attributes["species"]:
        if species["name"] in symbols:
            raise ValueError(f"the species {str(species['name'])[:20]} is there twice")
        symbols[species["name"]] = _element(species)
    sites = [symbols[name] for name in attributes["species_at_sites"]]
    if None in sites:
        raise ValueError("sites are partially occupied, or by what is no element")
    elements, positions = [str(site) for site in sites], attributes["cartesian_site_positions"]
    if len(positions) != len(elements) or attributes.get("nsites") not in (None, len(elements)):
        stated = attributes.get("nsites", "no number of")
        raise ValueError(f"it has {len(elements)} atoms, {len(positions)} positions, and states {stated} sites")
    if formula := attributes.get("chemical_formula_reduced"):
        _check_formula(str(formula), elements)
    return elements, attributes["lattice_vectors"], positions


def _element(species: Mapping[str, Any]) -> str | None:
    """The symbol of a species that is wholly one element; None for another."""
    chemical, shares = species["chemical_symbols"], species["concentration"]
    whole = len(chemical) == len(shares) == 1 and abs(float(shares[0]) - 1) < 1e-6
    if not whole or chemical[0] in ("X", "vacancy") or species.get("attached") or any(species.get("nattached") or ()):
        return None
    return str(chemical[0])


def _check_formula(formula: str, elements: Sequence[str]) -> None:
    """Raises ValueError if the atoms are not in the ratios of the formula."""
    try:
        stated, found = Counter(Composition(formula)), Counter(element_of(symbol).symbol for symbol in elements)
        wanted = {element_of(element.symbol).symbol: amount for element, amount in stated.items()}
    except (ValueError, KeyError) as error:
        raise ValueError(f"its formula or a species is not understood: {' '.join(str(error).split())[:80]}") from None
    units = len(elements) / sum(wanted.values())
    if set(wanted) != set(found) or any(abs(found[symbol] - units * wanted[symbol]) > 1e-3 for symbol in found):
        raise ValueError(f"its atoms are {Composition(dict(found)).formula}, its own formula is {formula[:60]}")


def _with(link: str, query: Mapping[str, str]) -> str:
    """A link to the next page with what it lost of the query."""
    parts = urlsplit(link)
    there = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    lost = {name: query[name] for name in KEPT if name in query and name not in there}
    return parts._replace(query="&".join(filter(None, (parts.query, urlencode(lost))))).geturl()


def _address(link: Any) -> str:
    return str(link["href"] if isinstance(link, dict) else link)


def _versioned(url: str) -> str:
    base = url.rstrip("/")
    return base if base.rpartition("/")[2].startswith("v") and base[-1].isdigit() else f"{base}/v1"
