"""Reading formulas: from the command line and from files, with a place for each, so that bad ones can be named."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dao_flows.errors import InputError, explain

Z = int | Literal["auto"]

FORMULA_COLUMNS = ("formula", "composition")
TABLES, DELIMITERS = (".csv", ".tsv"), (",", ";", "\t")
GAPS = ("", "nan", "na", "n/a", "<na>", "none", "null")  # how tables are written where a cell has no value
MOST_UNITS = 10**6


@dataclass(frozen=True)
class Entry:
    """A formula as it was written.

    where: file:line, or nothing for the command line; z: of its own, if any; fault: why its line cannot be read.
    """

    formula: str
    where: str = ""
    z: Z | None = None
    fault: str = ""

    def problem(self, text: str) -> str:
        """What is wrong with it, with its place."""
        return f"{self.where}: {text}" if self.where else text


def parse_z(text: str) -> Z:
    """'auto' or a positive whole number, which may be written as 1.0. Raises InputError."""
    if text.strip().lower() == "auto":
        return "auto"
    try:
        z = float(text)
    except ValueError:
        z = 0.0
    if not 1 <= z < MOST_UNITS or z != int(z):
        raise InputError(f"Z must be 'auto' or a positive whole number, not {text!r}")
    return int(z)


def read_formulas(path: Path) -> list[Entry]:
    """Formulas of a text file (one a line, # begins a comment) or a table (column formula or composition, maybe z).

    A table is a .csv or .tsv file, its columns parted by commas, semicolons or tabs, as its first line has it.

    A line that cannot be used becomes an entry with a fault, so that it can be named together with bad formulas. Raises
    InputError for a file that cannot be read at all.
    """
    lines = _lines(path)
    entries = _from_table(path, lines) if path.suffix.lower() in TABLES else _from_text(path, lines)
    if not entries:
        raise InputError(f"{path} holds no formula")
    return entries


def raise_problems(problems: list[str], total: int) -> None:
    """One InputError for all bad formulas of a request; nothing if there are none."""
    if len(problems) == 1 and total == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError(
            f"{len(problems)} of {total} formulas cannot be used:\n" + "\n".join(f"  {p}" for p in problems)
        )


def _lines(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"the file of formulas cannot be read: {explain(error)}") from error
    try:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # a spreadsheet's "Unicode text"
            return raw.decode("utf-16").splitlines()
        return raw.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not text in UTF-8; save the file as plain text") from None


def _from_text(path: Path, lines: Iterable[str]) -> list[Entry]:
    entries = []
    for number, line in enumerate(lines, 1):
        if words := line.split("#", 1)[0].split():
            fault = f"one formula a line, not {len(words)}" if len(words) > 1 else ""
            entries.append(Entry(words[0], f"{path}:{number}", fault=fault))
    return entries


def _from_table(path: Path, lines: list[str]) -> list[Entry]:
    begin = next((number for number, line in enumerate(lines) if line.strip()), 0)
    if lines and re.fullmatch(r"sep=.", lines[begin].strip()):  # a spreadsheet's own
        lines = [*lines[:begin], "", *lines[begin + 1 :]]
    parted = _delimiter(next((line for line in lines if line.strip()), ""))
    reader = csv.reader(lines, strict=True, delimiter=parted)
    entries = []
    try:
        header = [name.strip().lower() for name in next(filter(None, reader), [])]
        column = next((header.index(name) for name in FORMULA_COLUMNS if name in header), None)
        if column is None:
            raise InputError(f"{path}:1: no column called formula or composition; there are: {', '.join(header)}")
        for row in reader:
            cells = dict(zip(header, (cell.strip() for cell in row), strict=False))
            if parted == ";":  # where a comma is the decimal point
                cells["z"] = cells.get("z", "").replace(",", ".")
            if any(cells.values()):
                entries.append(_from_row(cells, header[column], f"{path}:{reader.line_num}"))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: {error}") from None
    return entries


def _delimiter(first: str) -> str:
    """What parts the columns of a table with this first line."""
    for found in DELIMITERS:
        with suppress(csv.Error):
            if any(name.strip().lower() in FORMULA_COLUMNS for name in next(csv.reader([first], delimiter=found), [])):
                return found
    return DELIMITERS[0]


def _from_row(cells: dict[str, str], column: str, where: str) -> Entry:
    formula, z, fault = cells.get(column, ""), None, ""
    told = cells.get("z", "")
    try:
        z = None if told.lower() in GAPS else parse_z(told)
    except InputError as error:
        fault = str(error)
    return Entry(formula, where, z, fault if formula else f"no {column}")
