"""How long things take, compared in one process so that what else the machine does cancels out."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

# One measurement takes at least this long, in seconds: calls that are shorter are repeated.
LEAST = 0.02
# Calls before anything is measured: the first ones allocate, choose kernels and fill caches.
WARM_UP = 3
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Timing:
    """How long one of several compared calls takes.

    Attributes:
        milliseconds: median over rounds, with its quartiles.
        ratio: to the first call's time in the same round: median, with its quartiles.
    """

    milliseconds: tuple[float, float, float]
    ratio: tuple[float, float, float]


def compare(
    calls: Sequence[Callable[[], object]], repeats: int, device: str = "cpu"
) -> list[Timing]:
    """Time calls against the first of them.

    Args:
        calls: what is timed.
        repeats: rounds; in each, every call is timed once.
        device: a CUDA device is waited for.
    """
    seconds = rounds(calls, repeats, device)
    ratios = seconds / seconds[0]
    return [
        Timing(_middle(1000 * own), _middle(ratio))
        for own, ratio in zip(seconds, ratios, strict=True)
    ]


def rounds(
    calls: Sequence[Callable[[], object]], repeats: int, device: str = "cpu", least: float = LEAST
) -> np.ndarray:
    """Return the seconds of one call in each round, (calls, rounds).

    Every round times all calls one after the other and begins with another one, so what slows the
    machine down for a while slows all of them.

    Args:
        calls: what is timed.
        repeats: how many rounds.
        device: a CUDA device is waited for.
        least: seconds that a measurement takes at least.
    """

    def timed(call: Callable[[], object], times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            call()
        if device != "cpu":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / times

    seconds = np.empty((len(calls), repeats))
    with torch.inference_mode():
        for call in calls:
            timed(call, WARM_UP)
        times = [max(1, math.ceil(least / timed(call, 1))) for call in calls]
        for number in range(repeats):
            for place in range(len(calls)):
                i = (place + number) % len(calls)
                seconds[i, number] = timed(calls[i], times[i])
    return seconds


def peak_memory(call: Callable[[], object], device: str = "cpu") -> int | None:
    """Return how many bytes a call needs at most beyond what is there before it.

    On a CPU it is the process's resident memory, the least of three calls; None where the system
    does not tell (it needs Linux). On a CUDA device it is what torch allocates.
    """
    with torch.inference_mode():
        call()
        if device != "cpu":
            torch.cuda.synchronize(device)
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            call()
            torch.cuda.synchronize(device)
            return int(torch.cuda.max_memory_allocated(device) - before)
        try:
            return min(_resident_growth(call) for _ in range(3))
        except (OSError, AttributeError):
            return None


def _resident_growth(call: Callable[[], object]) -> int:
    # Pages that earlier calls freed and the allocator kept would hide what this one needs.
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    _RESET.write_text("5", encoding="ascii")  # sets VmHWM back
    call()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads in a call; None: as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _middle(values: np.ndarray) -> tuple[float, float, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(median), float(low), float(high)
