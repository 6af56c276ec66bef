"""A simulated cluster: the real dispatcher and scheduler in virtual time.

Workers are queues whose calls take as long as a model of their costs says. The coordinator's own
time is real: what passes between two looks at the clock is added to it. So hours on a thousand
GPUs can be studied on a laptop, with the code that would drive them.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np

from headsearch.engine.executor import Died, Done, Event, Job, Plan, Up, describe
from headsearch.heads import HeadSet


@dataclass
class Cache:
    """Which parents' pieces a simulated worker holds, by bytes; see `scoring.cache`."""

    limit: int
    used: int = 0
    held: OrderedDict[HeadSet, dict[int, int]] = field(default_factory=OrderedDict)

    def hit(self, parent: HeadSet, first_batch: int, size: int, keep_others: bool) -> bool:
        """Return whether it is held; hold it from now on, if it fits."""
        pieces = self.held.get(parent)
        if pieces is not None:
            self.held.move_to_end(parent)
            if first_batch in pieces:
                return True
        while self.used + size > self.limit:
            oldest = next((p for p in self.held if p != parent), None)
            if oldest is None or keep_others:
                return False
            self.used -= sum(self.held.pop(oldest).values())
        self.held.setdefault(parent, {})[first_batch] = size
        self.used += size
        return False


@dataclass(frozen=True)
class Costs:
    """What things take, in seconds.

    Attributes:
        job: (job, whether the parent is cached) -> seconds on a worker.
        trace_bytes: what a worker caches of a parent, for each position.
        call: overhead of a call at the worker and on the way there and back.
        send: coordinator's time to send a call and take its answer, beside what is measured.
    """

    job: Callable[[Job, bool], float]
    trace_bytes: int = 0
    call: float = 0.0
    send: float = 0.0


class SimulatedWorkers:
    """See `executor.Workers`.

    Args:
        plan: as for real workers.
        costs: how long they take.
        compute: what a job's result is; its own time does not count.
        coordinator: whether the coordinator's real time counts; without it, a simulation gives
            the same every time.
        slow: slots whose workers take so many times as long.
        deaths: (seconds, slot): when a worker dies; another takes its place after `start`.
        start: seconds that a worker takes to come up.
    """

    name = "simulated"
    depth = 2
    alone = True

    def __init__(
        self,
        plan: Plan,
        costs: Costs,
        compute: Callable[[Job], np.ndarray],
        *,
        coordinator: bool = True,
        slow: Mapping[int, float] | None = None,
        deaths: Sequence[tuple[float, int]] = (),
        start: float = 0.0,
    ) -> None:
        self.plan = plan
        self._costs, self._compute, self._counts = costs, compute, coordinator
        self._slow = slow or {}
        self._start = start
        self._clock = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Callable[[float], list[Event]]]] = []
        self._queues: dict[int, deque[tuple[int, Sequence[Job]]]] = {}
        self._caches: dict[int, Cache] = {}
        self._generation: dict[int, int] = {}  # of the worker in a slot; a dead one's end is void
        self._real = perf_counter()
        self.busy_seconds = 0.0  # of all workers together
        self.coordinator_seconds = 0.0
        for slot in range(plan.workers):
            self._come_up(slot, 0.0)
        for when, slot in deaths:
            self._at(when, partial(self._die, slot))

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        """See `Workers.send`."""
        self._tick()
        self._clock += self._costs.send
        self.coordinator_seconds += self._costs.send
        queue = self._queues[slot]
        queue.append((call, jobs))
        if len(queue) == 1:
            self._begin(slot, self._clock)
        self._real = perf_counter()

    def poll(self, timeout: float) -> list[Event]:
        """See `Workers.poll`."""
        self._tick()
        deadline = self._clock + timeout
        events: list[Event] = []
        while self._events and not events:
            if self._events[0][0] > deadline:
                break
            self._clock = max(self._clock, self._events[0][0])
            while self._events and self._events[0][0] <= self._clock:
                when, _, happens = heapq.heappop(self._events)
                events += happens(when)
        if not events:
            self._clock = max(self._clock, deadline)
        self._real = perf_counter()
        return events

    def now(self) -> float:
        """See `Workers.now`; virtual seconds."""
        self._tick()
        return self._clock

    def spend(self, seconds: float) -> None:
        """Let the coordinator be busy for so long."""
        self._tick()
        self._clock += seconds
        self.coordinator_seconds += seconds

    def show(self, figures: Mapping[str, float]) -> None:
        """See `Workers.show`."""

    def describe(self) -> dict[str, Any]:
        """See `Workers.describe`."""
        return describe(self)

    def close(self) -> None:
        """See `Workers.close`."""
        self._events = []

    def _tick(self) -> None:
        """Add the coordinator's real time since the last look."""
        real = perf_counter()
        if self._counts:
            self._clock += real - self._real
            self.coordinator_seconds += real - self._real
        self._real = real

    def _at(self, when: float, happens: Callable[[float], list[Event]]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _come_up(self, slot: int, when: float) -> None:
        def up(_: float) -> list[Event]:
            self._queues[slot] = deque()
            self._caches[slot] = Cache(self.plan.cache_bytes or 0)
            self._generation[slot] = self._generation.get(slot, 0) + 1
            return [Up(slot)]

        self._at(when, up)

    def _die(self, slot: int, when: float) -> list[Event]:
        if slot not in self._queues:
            return []
        del self._queues[slot]
        self._come_up(slot, when + self._start)
        return [Died(slot, "it was made to")]

    def _begin(self, slot: int, when: float) -> None:
        """Let a worker start on its next call, which need not be when the coordinator looks."""
        call, jobs = self._queues[slot][0]
        seconds = sum(self._seconds(slot, job) for job in jobs) * self._slow.get(slot, 1.0)
        seconds += self._costs.call
        self.busy_seconds += seconds
        generation = self._generation[slot]

        def end(ended: float) -> list[Event]:
            if slot not in self._queues or self._generation[slot] != generation:
                return []
            self._queues[slot].popleft()
            if self._queues[slot]:
                self._begin(slot, ended)
            return [Done(call, [self._compute(job) for job in jobs], seconds)]

        self._at(when + seconds, end)

    def _seconds(self, slot: int, job: Job) -> float:
        size = job.piece.load * self._costs.trace_bytes
        cached = bool(size) and self._caches[slot].hit(
            job.item.parent, job.piece.span.first, size, job.speculative
        )
        return self._costs.job(job, cached)
