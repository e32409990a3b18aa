"""How a stage comes by its model: the right kind of checkpoint, on a device that is there. Loads torch when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dao_flows.model.errors import DaoError

if TYPE_CHECKING:
    from dao_flows.model.checkpoint.format import Card

NAMES = {"dao-g": "DAO-G", "dao-p": "DAO-P"}


class ParameterError(DaoError):
    """A maker's setting is out of range or does not fit another; the message says which and what to do."""


def pick_device(device: str) -> str:
    """'auto' is CUDA where there is one, else the CPU. Raises ParameterError for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(
            f"device {device!r} cannot be used here: {str(error).splitlines()[0]}; try 'auto'"
        ) from None
    return device


def card(reference: str, kind: str) -> Card:
    """The card of a checkpoint of this kind.

    Raises CheckpointError if there is none, ParameterError if it is of another kind.
    """
    from dao_flows.model.checkpoint.library import card_of

    found = card_of(reference)
    if found.kind != kind:
        raise ParameterError(f"{reference!r} is a {NAMES[found.kind]} checkpoint; a {NAMES[kind]} checkpoint is needed")
    return found


def load_model(reference: str, kind: str, device: str) -> tuple[Any, Card]:
    """A verified model of this kind on a device (DaoG or DaoP), and its card. Raises as `card` does."""
    from dao_flows.model.checkpoint.format import load
    from dao_flows.model.checkpoint.library import find

    card(reference, kind)
    return load(find(reference), device)
