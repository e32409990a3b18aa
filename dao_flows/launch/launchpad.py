"""FireWorks' LaunchPad: finding the user's, keeping its credentials quiet, and setting an empty one up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dao_flows.configuration import what
from dao_flows.errors import SettingsError, StoreError, explain
from dao_flows.makers.machine.masking import one_line, remember_secret, remember_uri
from dao_flows.settings import Settings, settings

if TYPE_CHECKING:
    from fireworks import LaunchPad

FIREWORKS_CONFIG = "FW_CONFIG_FILE"
SET_UP = "`dao-flows init FOLDER` sets one up; then `. FOLDER/env.sh`"
FLOW = "metadata.dao_flows"  # of a workflow: what it was submitted as
SUBMISSION = f"{FLOW}.submission"
INDEXES = (f"{FLOW}.key", f"{FLOW}.run_id")
CLAIM = [("spec._category", 1), ("state", 1), ("spec._priority", -1)]  # a worker's query, where other routes wait, too


def launchpad(config: Settings | None = None) -> LaunchPad:
    """The user's LaunchPad, reachable and set up: the one that FW_CONFIG_FILE names, else where FireWorks looks.

    Raises SettingsError if none is named or fireworks is not installed, StoreError if its server cannot be used.
    """
    require_fireworks()
    named = fireworks_setting("LAUNCHPAD_LOC")
    if named is None:
        raise SettingsError(f"there is no LaunchPad: {SET_UP}")
    path = Path(named).expanduser()
    found = open_launchpad(path, config or settings())
    if found.fw_id_assigner.find_one() is None:
        raise SettingsError(f"the LaunchPad of {path} was never set up: {SET_UP}")
    return found


def open_launchpad(path: Path, config: Settings) -> LaunchPad:
    """The LaunchPad of a my_launchpad.yaml, whose server answers. Raises SettingsError and StoreError."""
    from fireworks import LaunchPad

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        remember_uri(str(content.get("host") or ""))
        remember_secret(content.get("password"))
        patience = int(1000 * config.store_timeout)
        kwargs = {**(content.get("mongoclient_kwargs") or {}), "serverSelectionTimeoutMS": patience}
        found = LaunchPad.from_dict({**content, "strm_lvl": "ERROR", "mongoclient_kwargs": kwargs})
    except Exception as error:  # whatever YAML, FireWorks and pymongo make of what a user wrote, which they quote
        raise SettingsError(f"the LaunchPad of {path} cannot be used: {what(error)}") from None
    try:
        found.connection.admin.command("ping")
        found.db.list_collection_names()
    except Exception as error:
        raise StoreError(f"the LaunchPad of {path} cannot be used: {explain(error) or one_line(error)}") from error
    return found


def prepare(found: LaunchPad) -> None:
    """Set an empty LaunchPad up, as `lpad reset` would, but never emptying one, and add our indexes; safe to repeat."""
    if found.fw_id_assigner.find_one() is None:
        if found.fireworks.find_one() is not None:
            raise StoreError(f"the database {found.name!r} holds jobs but no counter of ids: take another")
        found.fw_id_assigner.update_one(
            {"_id": -1}, {"$setOnInsert": {"next_fw_id": 1, "next_launch_id": 1}}, upsert=True
        )
    found.tuneup()
    for field in INDEXES:
        found.workflows.create_index(field)
    found.workflows.create_index(SUBMISSION, unique=True, partialFilterExpression={SUBMISSION: {"$exists": True}})
    found.fireworks.create_index("spec.dao_flows.run_id")
    found.fireworks.create_index(CLAIM)


def require_fireworks() -> None:
    """Raises SettingsError if FireWorks is not installed."""
    try:
        import fireworks  # noqa: F401
    except ImportError:
        raise SettingsError("FireWorks is not installed: pip install 'dao-flows[fireworks]'") from None


def fireworks_setting(name: str) -> Any:
    """A setting of FireWorks as FW_CONFIG_FILE has it, else as FireWorks found it itself. Raises SettingsError."""
    if named := os.environ.get(FIREWORKS_CONFIG):
        try:
            content = yaml.safe_load(Path(named).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise SettingsError(f"{FIREWORKS_CONFIG} names {named}, which cannot be read: {what(error)}") from None
        if isinstance(content, dict) and name in content:
            return content[name]
    from fireworks import fw_config

    return getattr(fw_config, name)
