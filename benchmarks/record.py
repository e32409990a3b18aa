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

from dao_flows.model.checkpoint import verify, write_card
from dao_flows.model.library import find


def without_folders(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with paths in their `command` that lead out of the working folder cut down to file names."""
    if "command" not in fields:
        return fields
    words = [Path(word).name if word.startswith(("/", "../")) else word for word in shlex.split(fields["command"])]
    return {**fields, "command": shlex.join(words)}


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
