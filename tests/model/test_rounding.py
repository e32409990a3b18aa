"""Products that round a row alike among however many rows, on processors whose library has to be asked."""

import os
import subprocess
import sys

import pytest

from dao_flows.model.runtime import matmul as rounding

INTEL = "vendor_id : GenuineIntel\nflags : fpu avx512f avx512_bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "given", "asked"),
    [
        (INTEL, None, "AVX512,STRICT"),
        (INTEL, "COMPATIBLE", "COMPATIBLE"),
        (INTEL.replace("avx512f avx512_bf16", "avx2"), None, None),
        (INTEL.replace("GenuineIntel", "AuthenticAMD"), None, None),
        (None, None, None),
    ],
    ids=["intel", "the user's own", "no AVX-512", "AMD", "no such file"],
)
def test_the_library_is_asked_where_it_needs_to_be(monkeypatch, tmp_path, cpuinfo, given, asked):
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(rounding, "CPUINFO", path)
    monkeypatch.setenv("MKL_CBWR", given or "")  # so that it is as before afterwards
    if given is None:
        monkeypatch.delenv("MKL_CBWR")
    rounding.round_alike()
    assert os.environ.get("MKL_CBWR") == asked


def test_importing_the_model_is_early_enough():
    # wide enough that kernels for few rows split the sum; torch is loaded first, as users may do
    program = (
        "import torch; import dao_flows.model; torch.set_num_threads(1); torch.manual_seed(0);"
        "x, w = torch.randn(64, 768), torch.randn(192, 768);"
        "assert all(torch.equal((x @ w.T)[:m], x[:m] @ w.T) for m in (4, 8, 12, 20, 32))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
