"""Write measured figures into a checkpoint's card: `python benchmarks/record.py CHECKPOINT KEY RESULT.json`.

RESULT.json is what a benchmark wrote with --out. The weights, and so the checkpoint's identity, stay as they are;
figures of other weights are refused.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dao_flows.model.checkpoint.format import verify, write_card
from dao_flows.model.checkpoint.library import find


def without_folders(value: Any, key: str = "") -> Any:
    """Fields with the paths in each `command` and `location` that lead out of the working folder cut to file names."""
    if isinstance(value, dict):
        return {name: without_folders(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if key == "command" and isinstance(value, str):
        return shlex.join(without_folders(word, "location") for word in shlex.split(value))
    if key == "location" and isinstance(value, str) and value.startswith(("/", "../")):
        return Path(value).name
    return value


def main() -> int:
    """Exit code 2 if the figures are not of this checkpoint."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("checkpoint")
    p.add_argument("key", help="under which the figures stand in card.json, as in mp20_test_dev_1_sample")
    p.add_argument("result", type=Path)
    args = p.parse_args()
    folder = find(args.checkpoint)
    card, result = verify(folder), json.loads(args.result.read_text())
    if result.get("checkpoint_sha256") != card.sha256:
        print(f"error: {args.result} does not hold figures of {card.name} ({card.sha256[:12]}…)", file=sys.stderr)
        return 2
    metrics = {**card.metrics, args.key: without_folders(result)}
    write_card(folder, replace(card, metrics=metrics, training=without_folders(card.training)))
    print(f"{card.name}: {args.key} is in its card")
    return 0


if __name__ == "__main__":
    sys.exit(main())
