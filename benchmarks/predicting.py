"""How long predictions take from formula to ranked structures: `python benchmarks/predicting.py FORMULAS.txt`.

The same formulas, 20 candidates each, all drawn and ranked by agreement; half of them from known crystals; and these
ranked with a judge as well. Each way in a process of its own, one after the other, on as many cores as OMP_NUM_THREADS
says; the figure is the ratio to drawing alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "drawn": {"templates": 0, "judge": "none"},
    "half from known crystals": {"judge": "none"},
    "half from known crystals, judged": {"judge": "auto"},
}


def one_way(formulas: list[str], way: str, candidates: int) -> dict[str, float]:
    """Seconds of a prediction, in this process, whose start counts too."""
    began = time.monotonic()
    from dao_flows import predict

    with tempfile.TemporaryDirectory() as folder:
        os.environ["DAO_FLOWS_DATA_DIR"] = folder
        predict(formulas, n=candidates, **WAYS[way])  # type: ignore[arg-type]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall_s": time.monotonic() - began, "cpu_s": used.ru_utime + used.ru_stime}


def main() -> int:
    """Print a line for each way, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formulas", type=Path, nargs="?", help="one a line; Cr3Os alone without it")
    parser.add_argument("-n", "--candidates", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two candidates of the first formula")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    formulas = args.formulas.read_text().split() if args.formulas else ["Cr3Os"]
    if args.quick:
        formulas, args.candidates = formulas[:1], 2
    if args.way:
        print(json.dumps(one_way(formulas, args.way, args.candidates)))
        return 0
    took = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"{way}: {took[way]['wall_s']:.1f} s, {took[way]['cpu_s']:.1f} s of the processor", flush=True)
    first, *others = WAYS
    ratios = [f"{took[way]['cpu_s'] / took[first]['cpu_s']:.2f}× {way}" for way in others]
    print(f"{len(formulas)} compositions × {args.candidates}: {', '.join(ratios)}, of the time of drawing alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
