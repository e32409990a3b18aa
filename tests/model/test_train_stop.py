"""A run that is told to stop, or whose time is up, saves its state, says so by its exit code, and goes on."""

import os
import signal
import subprocess
import sys
import time
from itertools import count
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from dao_flows.model.checkpoint.format import verify
from dao_flows.model.runtime.deadline import UNFINISHED, Stop
from dao_flows.model.train import main
from dao_flows.model.training.metrics import METRICS, read
from dao_flows.model.training.state import STOPPED, saved_step
from dao_flows.model.training.trainer import RESERVE_S, Fit

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


@settings(deadline=None)
@given(speed=st.floats(0.5, 500), slow_start_s=st.floats(0, 30), wall_time_s=st.floats(60, 5000))
def test_as_many_steps_are_taken_as_fit_into_the_time(speed, slow_start_s, wall_time_s):
    now, step, steps = 0.0, 0, 10**9
    fit = Fit(steps, lambda: wall_time_s - now)
    while step < steps and now < wall_time_s + 1:
        now += (slow_start_s if step == 0 else 0) + 10 / speed
        step += 10
        steps = fit.steps(step) or steps
    begun = slow_start_s + 20 / speed  # until something is measured
    assert max(begun, wall_time_s - RESERVE_S) - 10 / speed <= now + 1e-6
    assert now <= max(begun, wall_time_s - RESERVE_S) + 20 / speed + 1e-6
    assert Fit(50, lambda: 1e9).steps(10) is None


def test_the_rate_has_fallen_when_the_time_is_up(parquet, tmp_path, monkeypatch, capsys):
    ticks = count()  # a step takes the same time on every machine: it looks at the clock once
    monkeypatch.setattr("dao_flows.model.runtime.deadline.time", SimpleNamespace(monotonic=lambda: next(ticks) / 50))
    monkeypatch.setattr("dao_flows.model.training.trainer.WINDOW", 10)
    monkeypatch.setattr("dao_flows.model.training.trainer.RESERVE_S", 1.0)
    out = tmp_path / "run"
    run = ["dao-g", str(parquet()), *TINY, "--out", str(out), "--steps", "1000000", "--constant", "0.3"]
    assert main([*run, "--wall-time-s", "5", "--fit-wall-time"]) == 0
    last = [r for r in read(out / METRICS) if "rate" in r][-1]
    card = verify(out / "checkpoint")
    assert card.training["config"]["steps"] == last["step"] < 1000000
    assert last["rate"] < 1e-5
    assert card.training["command"].endswith(f" --constant 0.3 --steps {last['step']}")
    assert main([*run, "--fit-wall-time"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --fit-wall-time goes with --wall-time-s"
