"""Measuring: what is computed from times is exact, the times themselves are only plausible."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from headsearch.heads import HeadSet
from headsearch.model import attention_times as tables
from headsearch.model import latency
from headsearch.model.attention_times import attention_times
from headsearch.model.latency import compare, peak_memory, rounds, threads
from headsearch.model.narrow import narrowed
from tests.tiny import SPECS, tiny_model


class Clock:
    """A machine on which calls take as long as is said, times how slow it is in each round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slow, self.log = 0.0, 1.0, list[str]()
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now)

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds * self.slow
            self.log.append(name)

        return run


def test_every_round_times_all_and_begins_with_another(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls = [clock.call("a", 1.0), clock.call("b", 2.0), clock.call("c", 3.0)]
    seconds = rounds(calls, 3)
    np.testing.assert_allclose(seconds, [[1.0] * 3, [2.0] * 3, [3.0] * 3])
    assert "".join(clock.log[-9:]) == "abcbcacab"


def test_short_calls_are_repeated_until_they_can_be_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    np.testing.assert_allclose(rounds([clock.call("a", 0.003)], 2, least=0.01), [[0.003] * 2])
    assert len(clock.log) == latency.WARM_UP + 1 + 2 * 4


def test_ratios_are_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    slow = itertools.count(1)

    def first() -> None:
        clock.slow = next(slow)  # ever slower: no two rounds are alike
        clock.now += 1.0 * clock.slow

    whole, half = compare([first, clock.call("half", 0.5)], 1)
    assert whole.ratio == (1.0, 1.0, 1.0)
    assert half.ratio == (0.5, 0.5, 0.5)


def test_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        latency, "rounds", lambda *_: np.array([[1.0, 1, 1, 1, 1], [1.0, 2, 3, 4, 5]])
    )
    _, timing = compare([print, print], 5)
    assert timing.milliseconds == (3000.0, 2000.0, 4000.0)
    assert timing.ratio == (3.0, 2.0, 4.0)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_peak_memory_counts_what_a_call_needs() -> None:
    least = peak_memory(lambda: torch.ones(1 << 23).sum())  # 32 MiB
    assert least is not None
    assert 0.9 * (1 << 25) < least < 1.5 * (1 << 25)


def test_a_gpu_is_waited_for_and_asked_for_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 170)
    rounds([lambda: time.sleep(0.002)] * 2, 3, "cuda:0", least=0.001)
    # Each call is waited for when it is warmed up, when it is estimated, and in three rounds.
    assert waited == ["cuda:0"] * (2 + 2 + 6)
    assert peak_memory(lambda: None, "cuda:0") == 70


def test_threads_are_set_back() -> None:
    before = torch.get_num_threads()
    with threads(1):
        assert torch.get_num_threads() == 1
    with threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("family", sorted(SPECS))
def test_a_table_has_a_row_for_each_layer_and_never_falls(family: str) -> None:
    model = narrowed(tiny_model(family), HeadSet.of([4, 8, 9, 10, 11]))
    table = attention_times(model, 2, 8, repeats=1)
    assert [len(row) for row in table] == [5, 4, 1]
    for row in table:
        assert row[0] == 0
        assert row == sorted(row)
        assert all(type(n) is int for n in row)


def test_a_table_is_made_of_paired_medians_and_monotone(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(calls: list[object], repeats: int, *_: object) -> np.ndarray:
        # With 4, 3, 2, 1 and 0 heads; each round slower than the one before.
        one = np.array([50.0, 41.0, 43.0, 30.0, 52.0]) * 1e-6
        assert len(calls) == 5
        return np.stack([one, one + 7e-6, one + 3e-6], axis=1)[:, :repeats]

    monkeypatch.setattr(tables, "rounds", timed)
    assert attention_times(tiny_model("BERT"), 2, 8, repeats=3) == [[0, 8, 8, 9, 9]] * 3


def test_attention_is_timed_with_as_many_heads_as_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def timed(calls: list[Callable[[], tuple[torch.Tensor, ...]]], *_: object) -> np.ndarray:
        seen.append([call()[0] for call in calls])
        return np.zeros((len(calls), 1))

    monkeypatch.setattr(tables, "rounds", timed)
    with torch.inference_mode():
        attention_times(tiny_model("MPNet"), 2, 8)
    (outputs,) = seen  # all three layers are alike
    assert len(outputs) == 5
    assert all(output.shape == (2, 8, 24) for output in outputs)
    bias = tiny_model("MPNet").mpnet.encoder.layer[0].attention.attn.o.bias
    assert torch.equal(outputs[4], bias.expand(2, 8, 24))  # no head is left


@pytest.mark.parametrize("family", sorted(SPECS))
def test_what_is_timed_is_the_attention(family: str) -> None:
    paths = tables._attention_paths(narrowed(tiny_model(family), HeadSet.of([0, 4, 5, 6, 7])))
    assert [path.replace(str(n), "N") for n, path in enumerate(paths)] == [
        paths[0].replace("0", "N")
    ] * 3
    assert paths[1].split(".1.")[1] == ("attention.attn" if family == "MPNet" else "attention")


def test_more_work_takes_longer() -> None:
    small, large = torch.ones(60, 60), torch.ones(600, 600)
    started = time.perf_counter()
    _, timing = compare([lambda: small @ small, lambda: large @ large], 3)
    assert timing.ratio[0] > 5
    assert time.perf_counter() - started < 10
