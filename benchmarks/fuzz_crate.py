"""Fuzzes the reader of crates: each changed crate is refused in one line, or read as the same documents.

Nothing else may come out: no other exception, no hang, no file. Inputs come in turn from seven ways of changing a
crate, the first three blind, the others knowing its format:

bytes      flips, deletions, insertions, copied and repeated pieces, cuts of the archive
headers    the same within the zip's own records, where a byte matters most
members    members swapped, doubled, renamed, left out, emptied, with other flags, modes and sizes
content    one member's bytes changed, the archive packed around it
fields     one value of one JSON member changed or moved, written canonically, the manifest made to fit
forged     the same, with the hashes that a document states over itself made to fit as well: such a crate may be read,
           but as a document of ours, with no class named that is not known
manifest   values of the manifest changed, with its own hash made to fit

Example: python benchmarks/fuzz_crate.py crate.zip --inputs 50000 --seed 1
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import random
import resource
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dao_flows.crate import CrateError, Limits
from dao_flows.crate.documents import written
from dao_flows.crate.layout import MANIFEST, member
from dao_flows.crate.reader import Crate, open_crate
from dao_flows.makers.jobs.provenance import canonical_json, content_hash, digest

SLOW = 2.0  # s; a small crate takes milliseconds
MOMENT = (1980, 1, 1, 0, 0, 0)
BOUNDS = Limits(members=200, document_mib=8, file_mib=16, total_mib=32)
SIGNATURES = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
ODD = [None, True, 0, -1, 2**63 - 1, 2**70, 0.5, -0.0, 1e308, "", "x", "../x", "\ud800", "\0", [], {}, [[]]]
ODD += [{"@module": "os", "@class": "system"}, {"$where": "1"}, {"$oid": "x"}, {"$date": {"$numberLong": "9" * 30}}]
ODD += [{"@module": "pymatgen.core.structure", "@class": "Structure"}, {"$numberDouble": "NaN"}, "a" * 64, "dao-0"]
ODD += ["9" * 400, {"@class": "x"}]
WORDS = ["x", "@class", "@module", "$set", "", "provenance", "a.b", "\0"]
STARTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "os.remove", "os.rename")


def summary(crate: Crate) -> str:
    """A hash over all documents of a crate. As in all hashes, the order of their keys counts for nothing."""
    texts = ((each, json.loads(crate.read(each.path))) for each in crate.documents)
    held = sorted([each.collection, each.key, json.dumps(content, sort_keys=True)] for each, content in texts)
    return digest(held)


class Fuzzer:
    """Ways of changing one crate; each draws from `random`."""

    def __init__(self, data: bytes, seed: int) -> None:
        self.data, self.random = data, random.Random(seed)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        self.records = sorted(at for mark in SIGNATURES for at in _places(data, mark))
        self.manifest = json.loads(self.files[MANIFEST])
        self.documents = [name for name in self.files if name.endswith(".json") and name != MANIFEST]

    def bytes(self) -> bytes:
        """Anywhere."""
        return self._blind(self.data, self.random.randrange(len(self.data)))

    def headers(self) -> bytes:
        """Within the records of the zip."""
        at = self.random.choice(self.records) + self.random.randrange(46)
        if self.random.random() < 0.3:  # a number of a record
            size = self.random.choice("HIQ")
            value = self.random.choice([0, 1, 2**31, 2 ** (8 * struct.calcsize(size)) - 1, len(self.data)])
            piece = struct.pack(f"<{size}", value % 2 ** (8 * struct.calcsize(size)))
            return self.data[:at] + piece + self.data[at + len(piece) :]
        return self._blind(self.data, min(at, len(self.data) - 1))

    def members(self) -> bytes:
        """Whole members."""
        files = list(self.files.items())
        name, content = self.random.choice(files)
        other = self.random.choice(files)[0]
        change: dict[str, Any] = {}
        match self.random.randrange(8):
            case 0:
                files = [(each, held) for each, held in files if each != name]
            case 1:
                files.append((name, self.random.choice([content, b"", b"{}"])))
            case 2:
                files.append((self._name(name), content))
            case 3:
                files = [(other if each == name else name if each == other else each, held) for each, held in files]
            case 4:
                files = [(each, b"" if each == name else held) for each, held in files]
            case 5:
                self.random.shuffle(files)
            case 6:
                change = {"external_attr": self.random.getrandbits(32), "create_system": self.random.choice([0, 3, 7])}
            case 7:
                change = {"compress_type": self.random.choice([0, 8]), "comment": b"x" * self.random.randrange(9)}
        return packed(files, {name: change})

    def content(self) -> bytes:
        """Within a member."""
        name = self.random.choice(list(self.files))
        held = self.files[name]
        changed = self._blind(held, self.random.randrange(len(held))) if held else b"x"
        return packed([*{**self.files, name: changed}.items()])

    def fields(self) -> bytes:
        """A value of a JSON member."""
        name = self.random.choice(self.documents)
        return self.fitted({**self.files, name: as_json(self._changed(json.loads(self.files[name])))})

    def forged(self) -> bytes:
        """A value of a document, with its own hashes made to fit."""
        name = self.random.choice([each for each in self.documents if each.startswith("documents/")])
        return self.fitted({**self.files, name: as_json(sealed(self._changed(json.loads(self.files[name]))))})

    def changed_manifest(self) -> bytes:
        """A value of the manifest."""
        fields = json.loads(self.files[MANIFEST])  # a copy of its own, for it is changed in place
        del fields["sha256"]
        manifest = self._changed(fields)
        if isinstance(manifest, dict):
            try:
                manifest["sha256"] = digest(manifest)
            except (ValueError, TypeError):
                manifest["sha256"] = self.manifest["sha256"]
        return packed([*{**self.files, MANIFEST: _canonical(manifest)}.items()])

    def _blind(self, data: bytes, at: int) -> bytes:
        pick = self.random
        size = min(pick.choice([1, 1, 1, 2, 4, 16, 200]), len(data) - at)
        match pick.randrange(7):
            case 0:
                return data[:at] + bytes([data[at] ^ 1 << pick.randrange(8)]) + data[at + 1 :]
            case 1:
                return data[:at] + pick.randbytes(size) + data[at + size :]
            case 2:
                return data[:at] + data[at + size :]
            case 3:
                return data[:at] + pick.randbytes(size) + data[at:]
            case 4:
                return data[:at]
            case 5:
                source = pick.randrange(len(data))
                return data[:at] + data[source : source + size] + data[at + size :]
            case _:
                return data[: at + size] + data[at:]

    def _name(self, name: str) -> str:
        odd = self.random.choice(["../", "/", "C:", "a\\", "./", "", " ", "é", "A" * 300, "a/", "..", "/x"])
        return self.random.choice([name.upper(), odd + name, name + odd])

    def _changed(self, value: Any) -> Any:
        """The value with one thing in it changed."""
        spots = list(_spots(value))
        holder, key = self.random.choice(spots)
        match self.random.randrange(5):
            case 0:
                del holder[key]
            case 1:
                source, name = self.random.choice(spots)
                holder[key] = json.loads(json.dumps(source[name]))
            case 2 if isinstance(holder, dict):
                holder[self.random.choice(WORDS)] = holder.pop(key)
            case 3 if isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
                holder[key] = holder[key] * self.random.choice([-1, 1 + 2**-52, 1e300, 0]) + self.random.choice([0, 1])
            case _:
                odd = self.random.choice(ODD)
                holder[key] = _deep(self.random.randrange(400)) if odd == [[]] else odd
        return value

    def fitted(self, files: dict[str, bytes]) -> bytes:
        """With a manifest that fits."""
        held = {name: member(content).model_dump() for name, content in sorted(files.items()) if name != MANIFEST}
        manifest = {**self.manifest, "members": held}
        manifest["sha256"] = digest({name: value for name, value in manifest.items() if name != "sha256"})
        return packed([*{**files, MANIFEST: canonical_json(manifest)}.items()])


def packed(files: list[tuple[str, bytes]], changes: dict[str, dict[str, Any]] | None = None) -> bytes:
    """An archive of these members, with attributes of their entries set."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files:
            info = zipfile.ZipInfo("x", MOMENT)
            info.filename = info.orig_filename = name
            for attribute, value in (changes or {}).get(name, {}).items():
                setattr(info, attribute, value)
            archive.writestr(info, content)
    return buffer.getvalue()


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    pending = [value]
    while pending:
        held = pending.pop()
        for key in list(held) if isinstance(held, dict) else range(len(held)):
            yield held, key
            if isinstance(held[key], dict | list):
                pending.append(held[key])


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def as_json(value: Any) -> bytes:
    """As a crate has it, where that can be."""
    try:
        return written(value)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(value, separators=(",", ":")).encode()


def _canonical(value: Any) -> bytes:
    """With its keys sorted, as the manifest."""
    try:
        return canonical_json(value)
    except (ValueError, TypeError, RecursionError):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def sealed(document: Any) -> Any:
    """With the hashes that it would have."""
    try:
        held = document.get("output", document) if isinstance(document, dict) else None
        if isinstance(held, dict):
            inner = held.get("provenance")
            (inner if isinstance(inner, dict) else held)["content_hash"] = content_hash(held)
    except (ValueError, TypeError, RecursionError):
        pass
    return document


@contextmanager
def watched() -> Iterator[set[str]]:
    """The names of files that are opened for writing, and of programs that are started, while it lasts."""
    seen: set[str] = set()

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if not look.on:  # type: ignore[attr-defined]
            return
        if event in STARTS:
            seen.add(f"{event} {arguments[:1]}")
        elif event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            seen.add(f"open {arguments[0]}")
        elif event == "os.mkdir":
            seen.add(f"mkdir {arguments[0]}")

    look.on = True  # type: ignore[attr-defined]
    sys.addaudithook(look)
    try:
        yield seen
    finally:
        look.on = False  # type: ignore[attr-defined]


def run(data: bytes, inputs: int, seed: int, tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Read this many changed crates; counts by way and outcome, times in ms, and whatever should not have been."""
    with open_crate(data, BOUNDS) as crate:
        wanted = summary(crate)
    fuzzer = Fuzzer(data, seed)
    ways = {
        "bytes": fuzzer.bytes,
        "headers": fuzzer.headers,
        "members": fuzzer.members,
        "content": fuzzer.content,
        "fields": fuzzer.fields,
        "forged": fuzzer.forged,
        "manifest": fuzzer.changed_manifest,
    }
    outcomes: dict[str, Counter[str]] = {way: Counter() for way in ways}
    reasons: Counter[str] = Counter()
    times: list[float] = []
    findings: list[str] = []
    names = list(ways)
    with watched() as written:
        for number in range(inputs):
            way = names[number % len(names)]
            changed = ways[way]()
            began = time.process_time()  # a busy machine is no finding
            try:
                with open_crate(changed, BOUNDS) as crate:
                    outcome = "the same" if summary(crate) == wanted else "read"
            except CrateError as error:
                outcome = "refused"
                if "\n" in str(error) or len(str(error)) > 2000:
                    findings.append(f"input {number} ({way}): the message is not one line: {error!r}")
                reasons[_kind(str(error))] += 1
            except BaseException as error:
                outcome = type(error).__name__
                findings.append(f"input {number} ({way}): {type(error).__name__}: {str(error)[:200]}")
            took = time.process_time() - began
            times.append(took)
            outcomes[way][outcome] += 1
            if took > SLOW:
                findings.append(f"input {number} ({way}): {took:.1f} s")
            if outcome == "read" and way != "forged" and changed != data:
                findings.append(f"input {number} ({way}): read as other documents")
            if len(findings) > 20:
                break
            if (number + 1) % 5000 == 0:
                tell(f"{number + 1} inputs, {sum(times):.0f} s, {len(findings)} findings")
    findings += sorted(f"written: {name}" for name in written)
    times.sort()
    return {
        "inputs": len(times),
        "seed": seed,
        "crate_bytes": len(data),
        "outcomes": {way: dict(found) for way, found in outcomes.items()},
        "median_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[int(len(times) * 0.99)],
        "slowest_ms": 1000 * times[-1],
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "reasons": dict(reasons.most_common()),
        "findings": findings,
    }


def _kind(message: str) -> str:
    """A message without names and numbers."""
    import re

    text = re.sub(r"'[^']*'|\"[^\"]*\"", "…", message)
    return re.sub(r"\d+", "N", text)[:80]


def main() -> None:
    """Fuzz one crate and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crate", type=Path, help="a small crate, as export-crate writes it")
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    given = parser.parse_args()
    found = run(given.crate.read_bytes(), given.inputs, given.seed, lambda text: print(text, file=sys.stderr))
    result = {"python": platform.python_version(), "machine": platform.machine(), **found}
    text = json.dumps(result, indent=1, ensure_ascii=False)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")
    sys.exit(1 if result["findings"] else 0)


if __name__ == "__main__":
    main()
