"""Zip archives: written so that the same content gives the same bytes, read so that no archive can do harm.

A reader trusts nothing: names, types and sizes of members are checked before a byte of them is decompressed, and what
comes out is counted. Nothing is ever extracted to a path that an archive names.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from dao_flows.errors import SettingsError, UserError

MIB = 2**20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
LONGEST_NAME = 200
CHUNK = MIB
RATIO_COUNTS_FROM = MIB  # smaller members may be as dense as they like
ENTRY_BYTES = 500  # of the archive's directory, for each member at most
ENCRYPTED = 0x1 | 0x40 | 0x2000
END, END_64 = b"PK\x05\x06", b"PK\x06\x06"
END_SIZE, LOCATOR_SIZE, END_64_SIZE = 22, 20, 56
MOMENT = (1980, 1, 1, 0, 0, 0)  # the first that zip knows: times would make every archive another
# zipfile lets all of these through, depending on which byte is wrong
DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class CrateError(UserError):
    """A crate cannot be written, or will not be read; one line that says which part of it is wrong."""


class Limits(BaseSettings):
    """How large a crate may be that is read; each field is an environment variable DAO_FLOWS_CRATE_<NAME>."""

    model_config = SettingsConfigDict(
        env_prefix="DAO_FLOWS_CRATE_", extra="ignore", env_ignore_empty=True, validate_default=True
    )

    members: int = Field(100_000, ge=1, description="Members in a crate.")
    document_mib: int = Field(64, ge=1, description="MiB of a document, unpacked.")
    file_mib: int = Field(16 * 1024, ge=1, description="MiB of a file of weights or data.")
    total_mib: int = Field(64 * 1024, ge=1, description="MiB of all members, unpacked.")
    ratio: int = Field(200, ge=1, description="Times that a member may grow when it is unpacked.")
    depth: int = Field(64, ge=8, le=200, description="Levels of nesting in a document.")
    modules: str = Field("", description="Packages of one's own whose makers may be named in documents, with commas.")


def limits() -> Limits:
    """The limits as the environment stands now. Raises SettingsError naming the variable."""
    try:
        return Limits()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"DAO_FLOWS_CRATE_{name}: {first['msg']}") from None


def show(name: str) -> str:
    """A name from an archive, fit for a terminal and a line."""
    text = repr(name)
    return text if len(text) <= 100 else f"{text[:99]}…"


class Archive:
    """An open archive whose directory is within the limits. sizes: of the members, by name.

    Raises CrateError for whatever is wrong with it; `where` stands in the messages.
    """

    def __init__(self, file: BinaryIO, where: str, bounds: Limits) -> None:
        self.where, self.bounds = where, bounds
        _check_directory(file, where, bounds)
        try:
            self._zip = zipfile.ZipFile(file)
        except DAMAGE as error:
            raise CrateError(f"{where} is not a zip archive, or a damaged one: {_said(error)}") from None
        self._infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            self._admit(info)
        self._check_names()
        self.sizes = {name: info.file_size for name, info in self._infos.items()}
        total, packed = sum(self.sizes.values()), file.seek(0, os.SEEK_END)
        if total > max(RATIO_COUNTS_FROM, bounds.ratio * packed):
            raise CrateError(
                f"{where} is refused: it grows more than {bounds.ratio} times when it is unpacked: a zip bomb?"
            )
        if total > bounds.total_mib * MIB:
            raise CrateError(
                f"{where} unpacks to {total / MIB:,.0f} MiB; DAO_FLOWS_CRATE_TOTAL_MIB allows {bounds.total_mib:,}"
            )

    def _admit(self, info: zipfile.ZipInfo) -> None:
        """Take a member in, or refuse the archive because of it."""
        name = info.orig_filename
        folder = name.endswith("/")
        self._check_name(name[:-1] if folder else name)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
            raise self._refusal(name, "is a link or another special file")
        if info.flag_bits & ENCRYPTED:
            raise self._refusal(name, "is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._refusal(name, "is packed by a method other than deflate")
        if folder:
            if info.file_size:
                raise self._refusal(name, "is a folder with content")
            return
        if name in self._infos:
            raise self._refusal(name, "is there twice")
        if info.file_size > self.bounds.file_mib * MIB:
            size, most = info.file_size / MIB, self.bounds.file_mib
            raise self._refusal(name, f"has {size:,.0f} MiB; DAO_FLOWS_CRATE_FILE_MIB allows {most:,}")
        if info.file_size > max(RATIO_COUNTS_FROM, self.bounds.ratio * info.compress_size):
            raise self._refusal(name, f"grows more than {self.bounds.ratio} times when it is unpacked: a zip bomb?")
        self._infos[name] = info

    def _check_name(self, name: str) -> None:
        parts = re.split(r"[/\\]", name)
        if ".." in parts or name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
            raise self._refusal(name, "climbs out of the archive")
        if len(name) > LONGEST_NAME or not NAME.fullmatch(name):
            raise self._refusal(name, "has a name that no crate uses")

    def _check_names(self) -> None:
        """No two names that one folder of any system could not hold side by side."""
        seen: dict[str, str] = {}
        for name in self._infos:
            if (other := seen.setdefault(name.casefold(), name)) != name:
                raise self._refusal(name, f"differs from {show(other)} in case alone")
        for name in seen:
            at = name.find("/")
            while at > 0:
                if name[:at] in seen:
                    raise self._refusal(seen[name[:at]], "is a file and a folder")
                at = name.find("/", at + 1)

    def _refusal(self, name: str, why: str) -> CrateError:
        return CrateError(f"{self.where} is refused: its member {show(name)} {why}")

    def stream(self, name: str) -> Iterator[bytes]:
        """The content of a member in pieces; never more than its declared size. Raises CrateError if it is damaged."""
        count, expected = 0, self.sizes[name]
        try:
            with self._zip.open(self._infos[name]) as source:
                while piece := source.read(CHUNK):
                    count += len(piece)
                    yield piece
        except DAMAGE as error:
            raise CrateError(f"{self.where} is damaged at {show(name)}: {_said(error)}") from None
        if count != expected:
            raise CrateError(f"{self.where} is damaged at {show(name)}: {count} bytes of {expected} are there")

    def read(self, name: str) -> bytes:
        """The content of a member that is a document. Raises CrateError as `stream` does, and for a huge one."""
        if self.sizes[name] > self.bounds.document_mib * MIB:
            size, most = self.sizes[name] / MIB, self.bounds.document_mib
            raise self._refusal(name, f"has {size:,.0f} MiB; DAO_FLOWS_CRATE_DOCUMENT_MIB allows {most:,}")
        return b"".join(self.stream(name))


def _check_directory(file: BinaryIO, where: str, bounds: Limits) -> None:
    """Refuse an archive whose directory is huge, before zipfile reads it whole."""
    size = file.seek(0, os.SEEK_END)
    tail_size = min(size, END_SIZE + LOCATOR_SIZE + END_64_SIZE)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    end = tail[-END_SIZE:]
    if len(end) < END_SIZE or end[:4] != END or end[-2:] != b"\0\0":
        raise CrateError(f"{where} is no zip archive, or is cut short, or has something behind its end")
    directory = int.from_bytes(end[12:16], "little")
    record = tail[-END_SIZE - LOCATOR_SIZE - END_64_SIZE :][:END_64_SIZE]
    if len(record) == END_64_SIZE and record[:4] == END_64:
        directory = max(directory % 0xFFFFFFFF, int.from_bytes(record[40:48], "little"))
    if directory > min(size, bounds.members * ENTRY_BYTES):
        raise CrateError(f"{where} is refused: it has more members than DAO_FLOWS_CRATE_MEMBERS ({bounds.members:,})")
    count = int.from_bytes(end[10:12], "little")
    if count != 0xFFFF and count > bounds.members:
        raise CrateError(f"{where} is refused: {count:,} members; DAO_FLOWS_CRATE_MEMBERS allows {bounds.members:,}")
    file.seek(0)


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:119]}…"


def write_archive(path: Path, members: Mapping[str, bytes | Path], check: Callable[[Path], object]) -> None:
    """Write an archive whole or not at all, its members sorted by name; the same members give the same bytes.

    members: contents, or files that hold them (stored as they are). check: is called with the finished file before it
    gets its name; what it raises is raised, and nothing is left.
    """
    with _staged(path) as (partial, target):
        with zipfile.ZipFile(target, "w") as archive:
            for name in sorted(members):
                content = members[name]
                info = zipfile.ZipInfo(name, MOMENT)
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                if isinstance(content, bytes):
                    archive.writestr(info, content, zipfile.ZIP_DEFLATED, 6)
                    continue
                info.file_size = content.stat().st_size
                with content.open("rb") as source, archive.open(info, "w") as member:
                    while piece := source.read(CHUNK):
                        member.write(piece)
        target.flush()
        os.fsync(target.fileno())
        check(partial)


@contextmanager
def _staged(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file beside `path` that takes its place when all went well, and is gone when not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "w+b") as target:
            yield partial, target
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
