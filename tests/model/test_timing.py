"""Timing a network call: what is timed, and that a batch too large for the memory is timed in parts."""

import pytest

from dao_flows.model.checkpoint.format import load
from dao_flows.model.checkpoint.library import find
from dao_flows.model.sampling import timing


@pytest.mark.parametrize(("asked", "timed"), [((4, 5), 4), ((400, 10), 48), ((8, 600), 4)])
def test_of_large_batches_on_a_cpu_a_part_is_timed(tiny_library, monkeypatch, asked, timed):
    calls = []
    monkeypatch.setattr(timing, "call_network", lambda model, crystals, t, bf16: calls.append((len(crystals), bf16)))
    model, _ = load(find("dao-g-tiny"))
    found = timing.call_seconds(model, *asked)
    assert found.crystals == timed
    assert calls == [(timed, False), (timed, True)] * (timing.CALLS + 1)


def test_a_batch_that_memory_does_not_suffice_for_is_timed_in_parts(tiny_library, monkeypatch):
    calls = []

    def call(model, crystals, t, bf16):
        if len(crystals) > 4:
            raise MemoryError
        calls.append(bf16)

    monkeypatch.setattr(timing, "call_network", call)
    model, _ = load(find("dao-g-tiny"))
    fp32, bf16, crystals = timing.call_seconds(model, 8, 5)
    assert fp32 > 0 < bf16
    assert crystals == 8
    assert len(calls) == 2 * 2 * (timing.CALLS + 1)
