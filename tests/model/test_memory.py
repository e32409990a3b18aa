"""Memory on the host: what is freed is used again."""

import subprocess
import sys

import pytest

STEP = """
import resource
import sys

import torch

from dao_flows.model.runtime.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)


def faults() -> int:
    for _ in range(3):  # the first ones make the heap what it will be
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        tensors = [torch.ones(1 << 20) for _ in range(20)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is what is asked")
def test_freed_memory_is_not_faulted_in_again():
    pages = 20 * (4 << 20) // 4096
    found = {}
    for mode in ("plain", "keep"):
        done = subprocess.run([sys.executable, "-c", STEP, mode], capture_output=True, text=True, check=True)
        found[mode] = int(done.stdout)
    if found["plain"] < pages / 2:
        pytest.skip("this kernel hands memory out in pages so large that their faults cannot be counted")
    assert found["keep"] < pages / 10
