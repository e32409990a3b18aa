"""How matrix products round on this processor."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def round_alike() -> None:
    """Have MKL round a row of a product alike among however many rows; before its first product of this process.

    On Intel's processors with AVX-512 it otherwise takes another kernel for a few rows than for many, and a crystal's
    result would depend on its batch (`runtime.batching`). The user's own MKL_CBWR is left as it is. On processors of
    other makers its kernels do so without being asked, and asking may cost them their speed.
    """
    try:
        processor = CPUINFO.read_text(encoding="ascii", errors="ignore")
    except OSError:
        return
    if "GenuineIntel" in processor and "avx512f" in processor:
        os.environ.setdefault("MKL_CBWR", "AVX512,STRICT")
