"""One line a check, and the exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dao_flows.errors import explain


class Check(NamedTuple):
    """What was looked at; fault: what is wrong with it, None where nothing is."""

    what: str
    fault: str | None = None


def main(suite: Callable[[str, str], Iterator[Check]], what: str) -> int:
    """Run a suite on what the command line names. 0: all is well; 1: something is not; 2: it cannot be opened."""
    parser = argparse.ArgumentParser(description=f"Checks {what}.")
    parser.add_argument("name", metavar="NAME", help="as its entry point is called")
    parser.add_argument("--device", default="cpu", help="as torch names it (default: cpu)")
    asked = parser.parse_args()
    failed = total = 0
    try:
        for check in suite(asked.name, asked.device):
            total, failed = total + 1, failed + (check.fault is not None)
            print(
                f"ok      {check.what}" if check.fault is None else f"FAILED  {check.what}: {check.fault}", flush=True
            )
    except Exception as error:
        if (said := explain(error)) is None:
            raise
        print(f"error: {said}")
        return 2
    print(f"{asked.name}: {total - failed} of {total} checks passed")
    return 1 if failed else 0
