"""prov.json: the history in W3C PROV, for whoever reads that."""

from __future__ import annotations

from .archive import CrateError
from .history import History
from .metadata import INSTALL

NAMESPACE = "urn:dao-flows:"


def prov_json(history: History) -> bytes:
    """The history as PROV-JSON. Raises CrateError if the package prov is missing."""
    try:
        from prov.model import ProvDocument
    except ImportError:
        raise CrateError(INSTALL) from None
    document = ProvDocument()
    document.set_default_namespace(NAMESPACE)
    document.add_namespace("schema", "https://schema.org/")
    for thing in history.things.values():
        facts = {"prov:type": thing.kind, "prov:label": thing.name}
        if thing.sha256:
            facts["schema:sha256"] = thing.sha256
        document.entity(_name(thing.ident), facts)
    agents: set[str] = set()
    for activity in history.activities:
        ident = _name(activity.ident)
        facts = {"prov:label": activity.name}
        if activity.error is not None:
            facts["schema:error"] = activity.error
        document.activity(ident, activity.started, activity.ended, facts)
        software = f"{activity.maker}/{activity.version or 'unknown'}"
        if software not in agents:
            agents.add(software)
            document.agent(software, {"prov:type": "prov:SoftwareAgent", "prov:label": software})
        document.association(ident, software, identifier=f"by/{activity.ident}")
        for used in activity.used:
            document.usage(ident, _name(used), identifier=f"used/{activity.ident}/{_name(used)}")
        for made in activity.made:
            document.generation(_name(made), ident, identifier=f"made/{activity.ident}/{_name(made)}")
    for parent, child in history.derived:
        document.derivation(_name(child), _name(parent), identifier=f"derived/{_name(child)}/{_name(parent)}")
    return f"{document.serialize(format='json', indent=1, sort_keys=True)}\n".encode()


def _name(ident: str) -> str:
    """An ident as a local name."""
    return ident.removeprefix("#").rstrip("/")
