"""A run that is told to stop, or whose time is up, saves its state, says so by its exit code, and goes on."""

import os
import signal
import subprocess
import sys
import time

from dao_flows.model.checkpoint import verify
from dao_flows.model.metrics import METRICS, read
from dao_flows.model.stopping import UNFINISHED, Stop
from dao_flows.model.train import main
from dao_flows.model.training_state import STOPPED, saved_step

TINY = ["--hidden", "8", "--layers", "1", "--heads", "2", "--frequencies", "2", "--time-width", "8"]
TINY += ["--batch-size", "8", "--threads", "1", "--warm-up", "10", "--device", "cpu"]


def told(out) -> list[dict]:
    """The metrics without what the clock says."""
    return [{k: v for k, v in r.items() if "_s" not in k} for r in read(out / METRICS)]


def test_a_run_stopped_in_the_middle_of_a_window_ends_like_one_that_was_not(parquet, tmp_path):
    run = ["dao-p", str(parquet()), *TINY, "--steps", "130", "--validate-every", "100"]
    calm, parts = tmp_path / "calm", tmp_path / "parts"
    assert main([*run, "--out", str(calm)]) == 0
    began = time.monotonic()
    for expected in (1, 2, 3):
        assert main([*run, "--out", str(parts), "--wall-time-s", "1e-6"]) == UNFINISHED
        assert saved_step(parts) == expected  # one step at least, so that it comes to an end
        assert (parts / STOPPED).read_text() == f"{expected}\n"
    assert main([*run, "--out", str(parts), "--wall-time-s", str(2000 + time.monotonic() - began)]) == 0
    assert not (parts / STOPPED).exists()
    assert verify(parts / "checkpoint").sha256 == verify(calm / "checkpoint").sha256
    assert told(parts) == told(calm)
    assert "--wall-time-s" not in verify(parts / "checkpoint").training["command"]


def test_the_signal_at_slurms_time_limit_saves_the_state(parquet, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "dao_flows.model.train", "dao-g", str(parquet()), "--out", str(out), *TINY]
    process = subprocess.Popen(
        [*command, "--steps", "1000000", "--save-every-s", "1e6"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 120
    while saved_step(out) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == UNFINISHED == 75
    step = saved_step(out)
    assert step > 0
    assert said.splitlines()[-1] == f"stopped at step {step}: run the same command again to go on"


def test_signals_are_left_to_others_before_and_after():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with Stop() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGUSR1)
        assert stop()
        assert stop.signal == signal.SIGUSR1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    assert Stop(0)()
    assert not Stop(1000)()
