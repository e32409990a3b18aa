"""How the process holds memory on the host."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # names of glibc's malloc.h
KEPT = 1 << 30  # bytes free at the top of the heap that are not handed back
PADDING = 64 << 20
LARGEST = 32 << 20  # bytes, the most that glibc allows: larger ones are mapped anew each time


def keep_freed_memory() -> None:
    """Have this process use freed memory again instead of handing it back to the kernel; for programs that compute.

    Tensors of a step are freed and made again at the next one, and each page that the kernel hands out anew costs a
    fault. Does something with glibc alone, and nothing to any result.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        for name, value in ((TRIM_THRESHOLD, KEPT), (TOP_PAD, PADDING), (MMAP_THRESHOLD, LARGEST)):
            mallopt(name, value)


def release_freed_memory() -> None:
    """Hand freed memory back to the kernel: after memory ran out, for allocators other than malloc, as oneDNN's."""
    if (trim := _glibc("malloc_trim")) is not None:
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
