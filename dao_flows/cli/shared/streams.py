"""The program's streams, set up once: whatever becomes of a terminal, a pipe or a disk, no command ends by printing.

What a stream cannot take is lost, the command goes on to its end, and the program says so in one line.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
import unicodedata
import warnings
from contextlib import suppress

from dao_flows.errors import explain
from dao_flows.makers.machine.masking import mask

HANDLER = "dao-flows"
LOST, WELL = 2, 0
LOOKALIKES = {"→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "·": ".", "°": "deg", "≤": "<=", "≥": ">="}
LOOKALIKES |= {"✓": "+", "✗": "x", "μ": "u", "’": "'", "‘": "'", "“": '"', "”": '"', "•": "*"}
QUIET = {  # what libraries, and processes that they start, say to developers
    "PYTHONWARNINGS": "ignore",
    "SPGLIB_WARNING": "OFF",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


class Output(io.TextIOWrapper):
    """A stream of text on a file descriptor that never raises; fault: the first error that it met."""

    def __init__(self, number: int, encoding: str, fault: OSError | None = None) -> None:
        raw = io.FileIO(number, "w", closefd=False)
        super().__init__(io.BufferedWriter(raw), encoding, HANDLER, line_buffering=number == 2 or raw.isatty())
        self.fault = fault

    def write(self, text: str) -> int:
        """Write, or lose what cannot be written."""
        try:
            super().write(text)
        except OSError as error:
            self._lose(error)
        except UnicodeError:  # of an encoding that asks for no replacement
            self._lose(OSError(errno.EILSEQ, f"{self.encoding} is no encoding for it"))
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what cannot be written."""
        try:
            super().flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Remember the first error; what the buffer holds, and what follows, goes nowhere."""
        self.fault = self.fault or error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        with suppress(OSError):
            super().flush()


def set_up() -> None:
    """Put streams of ours in the place of Python's, and have libraries keep to themselves what is for developers."""
    closed = [number for number in (0, 1, 2) if not _is_open(number)]
    for _ in closed:  # in ascending order, so that no file of ours takes their numbers
        os.open(os.devnull, os.O_RDWR)
    codecs.register_error(HANDLER, readable)
    if 0 in closed:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    gone = OSError(errno.EBADF, "it is closed") if 1 in closed else None
    sys.stdout = Output(1, getattr(sys.stdout, "encoding", None) or "utf-8", gone)
    sys.stderr = Output(2, getattr(sys.stderr, "encoding", None) or "utf-8")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("TERMINAL_WIDTH", "0").isdigit():  # typer's: it would end at any other
        del os.environ["TERMINAL_WIDTH"]
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *_, **__: None  # some libraries set filters of their own


def talkative() -> None:
    """Let libraries, and processes that they start, talk on stderr."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: object = None,
        line: object = None,
    ) -> None:
        print(mask(warnings.formatwarning(message, category, filename, lineno)), end="", file=sys.stderr)

    for name in QUIET:
        os.environ.pop(name, None)
    os.environ["SPGLIB_WARNING"] = "ON"  # makers turn it off, too
    warnings.showwarning = show
    warnings.resetwarnings()


def finish(code: int) -> int:
    """The exit code when all is said: that of a command whose results could not be printed is not 0.

    A reader that has seen enough (`| head`) is no fault.
    """
    out = sys.stdout
    if not isinstance(out, Output):
        return code
    out.flush()
    if out.fault is None or out.fault.errno == errno.EPIPE:
        return code
    said = out.fault.strerror if out.fault.errno in (errno.EBADF, errno.EILSEQ) else explain(out.fault)
    print(f"dao-flows: stdout cannot be written: {said}; what is stored is stored", file=sys.stderr)
    return code if code != WELL else LOST


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def readable(error: UnicodeError) -> tuple[str, int]:
    r"""What is written for characters that an encoding lacks: in JSON its escapes, elsewhere what looks like them.

    A byte of a file's name that is no text is written as \xff.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if error.object.lstrip()[:1] in ("{", "["):
        return "".join(json.dumps(each)[1:-1] for each in text), error.end
    return "".join(map(_lookalike, text)), error.end


def _lookalike(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return f"\\x{ord(character) - 0xDC00:02x}"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return LOOKALIKES.get(character) or plain or "?"
