"""Puts the figures of launching.py, documents.py and campaign.py into docs/scaling.md, and draws its picture.

Each table of the page stands between two comments, the first of which names it; what is between is written anew.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, PICTURE = ROOT / "benchmarks" / "results", ROOT / "docs" / "scaling.md", ROOT / "docs" / "scaling.png"
SOURCES = ("launching", "documents", "campaign")
CAMPAIGNS = (1, 1_000, 100_000, 1_000_000)  # compositions
PER_COMPOSITION, BATCH = 20, 200  # candidates
DISK = {"size": "of documents", "storageSize": "stored", "totalIndexSize": "of indexes"}

Figures = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def overhead(found: Figures) -> str:
    """Jobs per second by number of workers."""
    rows = [
        (f"{each['workers']}", f"{each['jobs_per_second']:.1f}", f"{each['ms_a_job']:.0f}")
        for each in found["launching"]["overhead"]
    ]
    return table(("workers", "jobs a second, in all", "ms a job, each worker"), rows)


def parts(found: Figures) -> str:
    """Where a job's overhead goes."""
    entries = found["launching"]["parts"].items()
    total = sum(entry["ms"] for _, entry in entries)
    rows = [(n, f"{e['ms']:.1f}", f"{100 * e['ms'] / total:.0f} %", f"{e['commands']:.0f}") for n, e in entries]
    commands = sum(entry["commands"] for _, entry in entries)
    return table(
        ("part", "ms a job", "share", "commands to the server"), [*rows, ("all", f"{total:.0f}", "", f"{commands:.0f}")]
    )


def claims(found: Figures) -> str:
    """A claim by the number of jobs that wait."""
    rows = []
    for each in found["launching"]["claims"]:
        without, indexed = each["without_index"]["claim_ms"], each["with_index"]["claim_ms"]
        counts = (f"{each[key]:,}" for key in ("ready", "ready_of_another_route", "completed"))
        rows.append((*counts, f"{without:.1f}", f"{indexed:.1f}"))
    return table(
        ("READY, own route", "READY, another route", "done, own route", "ms, FireWorks' indexes", "ms, with ours"), rows
    )


def writes(found: Figures) -> str:
    """Storing a document by the number that is there."""
    rows = []
    for each in found["launching"]["writes"]:
        without, indexed = each["without_index"], each["with_index"]
        times = [f"{entry[key]:.0f}" for key in ("store_ms", "attempt_ms") for entry in (without, indexed)]
        rows.append((f"{each['stored']:,}", *times))
    head = ("documents there", "storing, ms, no index", "with ours", "logging the attempt, ms, no index", "with ours")
    return table(head, rows)


def starts(found: Figures) -> str:
    """Processes, connections, sizes of specs."""
    launching = found["launching"]
    rows = [
        ("a process for one job (`singleshot`, as queues run them), s", f"{launching['start']['seconds']:.1f}"),
        ("of these the job itself, with its imports, s", f"{launching['start']['of_them_job']:.1f}"),
        ("versions of libraries, looked up each time, ms", f"{launching['library_lookup']['each_time_ms']:.1f}"),
        ("and once a process, ms", f"{launching['library_lookup']['once_ms']:.3f}"),
        ("connections to the server of one worker", f"{launching['connections_a_worker']}"),
        *((f"ms a job, specs of {e['bytes'] / 1e3:,.0f} kB more", f"{e['ms_a_job']:.0f}") for e in launching["specs"]),
    ]
    return table(("what", "measured"), rows)


def flows(found: Figures) -> str:
    """A job's overhead by the number of jobs that its flow has."""
    rows = [
        (f"{each['jobs_a_flow']}", f"{each['workers']}", f"{each['ms_a_job']:.0f}")
        for each in found["launching"]["flows"]
    ]
    return table(("jobs of a flow", "workers", "ms a job, each worker"), rows)


def documents(found: Figures) -> str:
    """Documents and bytes of a candidate."""
    rows = []
    for each in sorted(found["documents"]["documents"], key=lambda e: e["candidates_a_composition"]):
        stored = each["bytes_a_candidate"]
        rows.append(
            (
                f"{each['candidates_a_composition']}",
                f"{each['compositions']}",
                f"{each['kept'] / each['drawn']:.0%}",
                f"{each['documents_a_candidate']:.2f}",
                *(f"{size / 1e3:.2f}" for size in stored.values()),
                f"{sum(stored.values()) / 1e3:.1f}",
            )
        )
    names = [f"{name}, kB" for name in found["documents"]["documents"][0]["bytes_a_candidate"]]
    return table(("candidates a composition", "compositions a job", "kept", "documents", *names, "all, kB"), rows)


def comparison(found: Figures) -> str:
    """Ours and plain atomate2."""
    rows = [
        (
            f"{name} ({each['structures']})",
            f"{each['jobs_a_structure']:.2f}",
            f"{each['documents_a_structure']:.2f}",
            f"{each['bytes_a_structure'] / 1e3:.1f}",
            f"{each['overhead_ms_a_structure']:.0f}",
        )
        for name, each in found["documents"]["comparison"].items()
    ]
    return table(("what (structures)", "jobs", "documents", "kB", "overhead, ms"), rows)


def statuses(found: Figures) -> str:
    """`status` by the number of jobs."""
    rows = []
    for each in found["campaign"]["status"]:
        bare = each.get("without_indexes")
        rows.append(
            (
                f"{each['jobs']:,}",
                f"{each['all_seconds']:.2f}",
                f"{1e3 * each['one_seconds']:.0f}",
                f"{bare['all_seconds']:.2f}" if bare else "",
                f"{1e3 * bare['one_seconds']:.0f}" if bare else "",
                f"{each['command_seconds']:.1f}",
            )
        )
    head = ("jobs", "all flows, s", "one flow, ms", "all, no indexes, s", "one, no indexes, ms", "the command, s")
    return table(head, rows)


def campaign(found: Figures) -> str:
    """Submission, cancelling, building."""
    rows = []
    for each in found["campaign"]["submit"]:
        what = f"{each['compositions']:,} compositions × {each['candidates_a_composition']}"
        rows += [
            (f"`submit` of {what} ({each['flows']:,} flows)", *_cost(each["submit"])),
            ("the same again, recognised", *_cost(each["again"])),
            (f"`cancel` of one flow of {each['flows']:,}", *_cost(each["cancel_one"])),
        ]
    for each in found["campaign"]["build"]:
        rows += [
            (f"`build` of {each['new_candidates']:,} candidates", *_cost(each["build"])),
            (f"`build` with nothing new among {each['candidates']:,}", *_cost(each["build_nothing_new"])),
            (f"`list` of {each['candidates']:,}", *_cost(each["list"])),
        ]
        if disk := each.get("on_disk"):
            sizes = (f"{disk[key] / each['candidates'] / 1e3:.1f} kB {what}" for key, what in DISK.items())
            rows.append((f"on disk, each of {each['candidates']:,} candidates: {', '.join(sizes)}", "", ""))
    deleted = found["campaign"]["delete"]
    rows.append((f"`lpad delete_wflows` of {deleted['flows']:,} flows", f"{deleted['seconds']:.1f}", ""))
    return table(("command", "s", "memory, MiB"), rows)


def _cost(entry: Figures) -> tuple[str, str]:
    return f"{entry['seconds']:.1f}", f"{entry['memory_mib']:.0f}"


def estimates(found: Figures) -> str:
    """What follows for campaigns, by the formulas of the page."""
    rows = []
    for compositions in CAMPAIGNS:
        each = estimate(found, compositions)
        rows.append(
            (
                f"{compositions:,}",
                f"{each['jobs']:,.0f}",
                _size(each["bytes"]),
                _time(each["overhead_seconds"]),
                _time(each["start_seconds"]),
                _time(each["core_seconds"]),
            )
        )
    head = ("compositions", "jobs", "database", "overhead of all jobs", "start of a process for each", "one core here")
    return table(head, rows)


def estimate(found: Figures, compositions: int) -> dict[str, float]:
    """Jobs, bytes and seconds of so many compositions, 20 candidates each, 200 in a batch."""
    rows = found["documents"]["documents"]
    measured = min(rows, key=lambda each: abs(each["candidates_a_composition"] - PER_COMPOSITION))
    drawn = compositions * PER_COMPOSITION
    jobs = 2 * -(-drawn // BATCH)
    one = found["launching"]["overhead"][0]["ms_a_job"] / 1e3
    start = found["launching"]["start"]
    return {
        "jobs": jobs,
        "bytes": drawn * sum(measured["bytes_a_candidate"].values()),
        "overhead_seconds": jobs * one,
        "start_seconds": jobs * (start["seconds"] - start["of_them_job"]),
        "core_seconds": drawn * measured["job_seconds"] / measured["drawn"],
    }


def _size(size: float) -> str:
    power = next(p for p in (1, 2, 3, 4) if size < 1000 ** (p + 1) or p == 4)
    return f"{size / 1000**power:.3g} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def _time(seconds: float) -> str:
    for name, unit in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.0f} {name}"
    return f"{seconds:.1f} s"


def machine(found: Figures) -> str:
    """Where, when and with what load the figures were taken."""
    lines = []
    for each in found.values():
        versions = ", ".join(f"{library} {number}" for library, number in each["versions"].items())
        lines.append(
            f"- `{each['command']}`: {each['cores']} cores, load {each['load']} before, {each['load_after']} after; "
            f"{versions}"
        )
    return "\n".join(lines)


def capacity(found: Figures) -> str:
    """Workers that the measured server would serve, by the seconds that a job computes."""
    rows = found["launching"]["overhead"]
    rate, own = max(each["jobs_per_second"] for each in rows), rows[0]["ms_a_job"] / 1e3
    lines = [(f"{seconds:,}", f"{rate * (seconds + own) / 2:,.0f}") for seconds in (10, 60, 600, 3600)]
    return table(("*t*, s", f"workers, ½·*r*·(*t* + *o*), *r* = {rate:.1f}/s, *o* = {own:.3f} s (extrapolated)"), lines)


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "overhead": overhead,
    "parts": parts,
    "claims": claims,
    "writes": writes,
    "starts": starts,
    "flows": flows,
    "capacity": capacity,
    "documents": documents,
    "comparison": comparison,
    "status": statuses,
    "campaign": campaign,
    "estimates": estimates,
    "machine": machine,
}


def fill(text: str, found: Figures) -> str:
    """The page with its blocks written anew. Raises ValueError for a block that it does not have."""
    for name, block in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{PAGE.name} has no place for {name}")
        written = block(found)
        text = pattern.sub(lambda match, written=written: f"{match[1]}{written}\n{match[2]}", text)
    return text


def draw(found: Figures) -> None:
    """Overhead against workers, and size of the database against compositions."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rows = found["launching"]["overhead"]
    workers = [each["workers"] for each in rows]
    left.plot(workers, [each["ms_a_job"] for each in rows], "o-", color="C0")
    left.set(xlabel="workers", ylabel="overhead of a job, each worker (ms)", xticks=workers, ylim=(0, None))
    rate = left.twinx()
    rate.plot(workers, [each["jobs_per_second"] for each in rows], "s--", color="C1")
    rate.set(ylabel="jobs a second, in all (dashed)", ylim=(0, None))
    numbers = [10**power for power in range(7)]
    for each, marker in zip(
        sorted(found["documents"]["documents"], key=lambda e: e["candidates_a_composition"]), "osD^", strict=False
    ):
        number = each["candidates_a_composition"]
        size = sum(each["bytes_a_candidate"].values()) * number
        right.plot(numbers, [size * n for n in numbers], "-", lw=1, label=f"{number} candidates each")
        right.plot([each["compositions"]], [size * each["compositions"]], marker, color=right.lines[-1].get_color())
    right.set(xscale="log", yscale="log", xlabel="compositions", ylabel="documents in the database (bytes)")
    right.legend(frameon=False, title="marker: measured, line: × compositions")
    figure.savefig(PICTURE, dpi=120)


def main() -> int:
    """The last line says what was written; exit code 2 if a result is missing."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--results", type=Path, default=RESULTS, help="folder of launching.json, documents.json, campaign.json"
    )
    p.add_argument("--quick", action="store_true", help="print the page, write nothing")
    args = p.parse_args()
    try:
        found = {name: json.loads((args.results / f"{name}.json").read_text()) for name in SOURCES}
        text = fill(PAGE.read_text(encoding="utf-8"), found)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.quick:
        print(text)
        return 0
    PAGE.write_text(text, encoding="utf-8")
    draw(found)
    print(f"wrote {PAGE.relative_to(ROOT)} and {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
