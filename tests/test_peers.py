"""What the benchmarks run peers with: stand-ins that compute as their libraries do, and checkouts that do not mix."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CHECKOUT = """
import hydra
import pytorch_lightning as pl
from torch import nn
from torch_scatter import scatter
from pyxtal.symmetry import Group

class {kind}(pl.LightningModule):
    def __init__(self, **kwargs):
        super().__init__()
        self.save_hyperparameters()
        self.decoder = hydra.utils.instantiate(self.hparams.decoder, latent_dim=0, _recursive_=False)
        self.beta_scheduler = nn.Module()
        self.beta_scheduler.timesteps = self.hparams.timesteps
        self.seen = []
    def sample(self, batch, N=None):
        steps = N or self.beta_scheduler.timesteps
        self.seen.append((steps, self.device.type, scatter(batch.frac_coords, batch.batch, dim=0, reduce="mean").shape))
"""


@pytest.fixture(scope="module")
def peers():
    sys.path.insert(0, str(BENCHMARKS))
    import peers

    yield peers
    sys.path.remove(str(BENCHMARKS))


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_stand_ins_compute_what_their_libraries_do(peers, sizes, seed):
    from peers.stand_ins import dense_to_sparse, scatter

    edges, weights = dense_to_sparse(torch.block_diag(*[torch.ones(n, n) for n in sizes]))
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    wanted = [(a + i, a + j) for a, n in zip(starts, sizes, strict=True) for i in range(n) for j in range(n)]
    assert edges.T.tolist() == [list(pair) for pair in wanted] and weights.eq(1).all()

    rows = torch.randn(edges.shape[1], 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    total, mean = (scatter(rows, edges[0], dim=0, dim_size=sum(sizes) + 1, reduce=how) for how in ("sum", "mean"))
    for atom in range(sum(sizes)):
        own = rows[edges[0] == atom]
        torch.testing.assert_close(total[atom], own.sum(0))
        torch.testing.assert_close(mean[atom], own.mean(0))
    assert total[-1].eq(0).all() and mean[-1].eq(0).all()  # an atom without edges


def test_a_batch_is_laid_out_as_the_peers_read_it(peers):
    batch = peers.batch([2, 3])
    assert batch.batch.tolist() == [0, 0, 1, 1, 1] and batch.num_nodes == 5 and batch.num_graphs == 2
    assert batch.frac_coords.shape == (5, 3) and batch.lengths.shape == batch.angles.shape == (2, 3)
    torch.testing.assert_close(batch.lengths[:, 0] ** 3, torch.tensor([40.0, 60.0]))


def test_checkouts_of_one_package_name_do_not_mix(peers, tmp_path):
    for name, module, kind in (("a", "diffusion", "CSPDiffusion"), ("b", "flow", "CSPFlow")):
        folder = tmp_path / name / "diffcsp" / "pl_modules"
        folder.mkdir(parents=True)
        (folder / f"{module}.py").write_text(CHECKOUT.format(kind=kind))
        (folder / "cspnet.py").write_text(
            f"import torch\ndef CSPNet(**c):\n    return torch.nn.Linear({ord(name)}, 1)\n"
        )
    before, here = {*sys.modules}, Path.cwd()
    found = peers.diffcsp(tmp_path / "a"), peers.crystalflow(tmp_path / "b")
    assert [p.model.decoder.in_features for p in found] == [ord("a"), ord("b")]
    assert [p.published for p in found] == [1000, 100] and Path.cwd() == here
    left = {name.split(".")[0] for name in {*sys.modules} - before}
    assert not left & {"diffcsp", "torch_scatter", "pytorch_lightning", "hydra", "pyxtal"}
    for peer in found:
        peer.sample(peers.batch([2, 3]), 4)
        assert peer.model.seen == [(4, "cpu", (2, 3))]
    (tmp_path / "a" / "diffcsp" / "pl_modules" / "diffusion.py").write_text("import no_such_library\n")
    with pytest.raises(peers.PeerError, match="no_such_library"):
        peers.diffcsp(tmp_path / "a")


def test_sampling_is_measured_and_a_wrong_checkout_is_one_line(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "sampling.py"), "--quick", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("2 atoms, batch 2: ") and "× the published form (" in done.stdout
    done = subprocess.run([*command, "--diffcsp", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no checkout of DiffCSP" in done.stderr
