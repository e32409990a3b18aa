"""Opening files of text: compressed or not, in UTF-8, or in what a byte order mark says."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

from .raw import SourceError

COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, UnicodeError, OSError)  # what reading may raise


def plain_name(path: PurePath) -> str:
    """A file's name without the suffix of a compression."""
    return path.stem if path.suffix.lower() in COMPRESSED else path.name


def printable(path: str | PurePath) -> str:
    r"""A path as text. Bytes that are no UTF-8 become \xdf and the like, so that every path can be written down."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def open_text(path: Path) -> IO[str]:
    """Open a file; bytes that are no text in its encoding come as lone surrogates. Raises what BROKEN lists."""
    binary: Any = io.BufferedReader(COMPRESSED.get(path.suffix.lower(), open)(path, "rb"))
    try:
        encoding = encoding_of(binary.peek(4))
    except BaseException:
        binary.close()
        raise
    return io.TextIOWrapper(binary, encoding, errors="surrogateescape", newline="")


def read_text(path: Path) -> str:
    """A whole file, its lines ended by a newline, without what is no text. Raises what BROKEN lists."""
    with open_text(path) as stream:
        return clean(stream.read()).replace("\r\n", "\n").replace("\r", "\n")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Reading a file that is one source. Raises SourceError, in one line, for what is damaged or cut short."""
    try:
        yield
    except BROKEN as error:
        raise SourceError(f"{printable(path)} is damaged or incomplete: {said(error)}; get it again") from error


def encoding_of(start: bytes) -> str:
    """By its first bytes."""
    return next((encoding for mark, encoding in MARKS if start.startswith(mark)), "utf-8")


def broken(text: str) -> bool:
    """Whether it holds bytes that are no text."""
    return any("\ud800" <= letter <= "\udfff" for letter in text) if not text.isascii() else False


def clean(text: str) -> str:
    """The text with a replacement character for what is no text."""
    return text.encode("utf-8", "replace").decode() if broken(text) else text


def said(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
