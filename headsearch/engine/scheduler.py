"""Which worker gets which job: where the parent's cache is, the largest first, else what is left.

Nothing here has any influence on what a search decides, only on how soon it gets its answers.
Scoring is pure, so a job whose worker died, or whose worker is slow, is simply given to another; a
job that was in flight at three workers when they died is taken to be what kills them.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from headsearch.engine.executor import Died, Done, Event, Failed, Job, Lost, Up, Workers
from headsearch.errors import EngineError

MAX_DEATHS = 3
# Small jobs are sent together until a call carries so much work.
CALL_SECONDS = 0.05
CALL_JOBS = 64
# What a call costs the coordinator, about. Where every call carries so much work for every worker
# there is, it can just keep up; most carry more.
SEND_SECONDS = 0.0005
# So many workers get work ahead before it is looked whether something that was asked for is there.
FILLED_AT_ONCE = 16
# A call that takes so many times as long as its work should, and at least so long, is slow: its
# jobs are given to another worker too.
SLOW_FACTOR = 5.0
SLOW_SECONDS = 10.0
POLL_SECONDS = 1.0
# Answers may get lost on the way so often before a job is given up.
MAX_LOSSES = 20
# How long a search waits for a first worker, or for another once all are gone.
PATIENCE_SECONDS = 1800.0


@dataclass
class _Call:
    number: int
    slot: int
    jobs: list[Job]
    sent: float
    again: bool = False  # whether another worker has its jobs too

    @property
    def cost(self) -> float:
        return sum(job.cost for job in self.jobs)


@dataclass
class _Slot:
    calls: dict[int, _Call] = field(default_factory=dict)  # oldest first
    alone: bool = False  # runs a suspect, by itself
    since: float = 0.0  # when it began to work at what is now its oldest call


class Scheduler:
    """Keeps workers busy.

    Args:
        workers: who computes.
        filler: asked for a job, best on a given shard, when a worker has nothing to do; None:
            there is none for anybody.
        may_drop: whether a job that can't be computed is none that is needed; then it is dropped.
        waiting_still: called now and then while nothing is done yet.
    """

    def __init__(
        self,
        workers: Workers,
        filler: Callable[[int], Job | None] = lambda shard: None,
        may_drop: Callable[[Job], bool] = lambda job: False,
        waiting_still: Callable[[], None] = lambda: None,
    ) -> None:
        self._workers, self._waiting_still = workers, waiting_still
        self._filler = filler
        self._may_drop = may_drop
        self._error: EngineError | None = None  # raised once what was done is handed over
        self._looked = workers.now()
        self._overdue = False  # whether a call is slow: then workers are kept free for it
        self._home = workers.plan.layout.home
        self._shards = workers.plan.layout.shards
        self._queues: list[list[tuple[float, int, Job]]] = [[] for _ in range(self._shards)]
        self._loads = [0.0] * self._shards  # costs of what waits in each
        self._slots: dict[int, _Slot] = {}
        # Those that have room for another call, by how many they have: {slot: None}, in the order
        # in which they came to have so many.
        self._free: list[dict[int, None]] = [{} for _ in range(workers.depth)]
        self._calls: dict[int, _Call] = {}
        self._open: set[int] = set()  # numbers of jobs that are waiting or in flight
        self._deaths: Counter[int] = Counter()  # job number -> workers that died with it
        self._losses: Counter[int] = Counter()  # job number -> answers that were lost
        self._next_call = 0
        self.waiting = 0  # jobs that wait for a worker
        self._rate: float | None = None  # seconds for a unit of cost
        self._alone_since = workers.now()
        self.sent_twice = 0  # jobs that were given to another worker because theirs was slow

    @property
    def pending(self) -> bool:
        """Whether any job is waiting or in flight."""
        return bool(self._open)

    @property
    def in_flight(self) -> int:
        """How many jobs were sent and not yet answered."""
        return sum(len(call.jobs) for call in self._calls.values())

    @property
    def live_workers(self) -> int:
        """How many workers are up."""
        return len(self._slots)

    @property
    def least_call(self) -> float:
        """Seconds of work that a call should carry at least."""
        return max(CALL_SECONDS, SEND_SECONDS * len(self._slots))

    def seconds(self, cost: float) -> float | None:
        """Return how long a worker takes for so much work; None where nothing is known yet."""
        return None if self._rate is None else cost * self._rate

    def submit(self, job: Job) -> None:
        """Take a job; it is sent by the next `collect`."""
        self._open.add(job.number)
        self._queue(job)

    def fill(self, seconds: float) -> None:
        """Give workers that have nothing to do work for so long, if there is any for them."""
        if self.waiting or self._overdue or self._rate is None:
            return
        for number in list(self._free[0]):
            jobs: list[Job] = []
            while sum(job.cost for job in jobs) * self._rate < seconds:
                job = self._filler(self._home(number))
                if job is None:
                    break
                self._open.add(job.number)
                jobs.append(job)
            if not jobs:
                return
            self._send(number, jobs)

    def collect(self) -> list[tuple[Job, np.ndarray]]:
        """Wait until at least one job is done and return all that are; [] if none is pending.

        Raises:
            EngineError: a job can't be computed.
        """
        done: list[tuple[Job, np.ndarray]] = []
        more = self._pump()
        while not done and self._open and self._error is None:
            for event in self._workers.poll(0 if more else POLL_SECONDS):
                done += self._handle(event)
            if self._workers.now() - self._looked >= POLL_SECONDS:
                self._looked = self._workers.now()
                self._look_for_slow()
                self._check_alone()
                self._waiting_still()
            # Once something is done, what is asked for next may follow at once.
            more = self._pump(fill=not done)
        if self._error is not None and not done:
            raise self._error
        return done

    def pump(self) -> None:
        """Send what waits to workers that have room for it."""
        self._pump(fill=False)

    # Events

    def _handle(self, event: Event) -> list[tuple[Job, np.ndarray]]:
        if isinstance(event, Up):
            self._slots[event.slot] = _Slot()
            self._place(event.slot)
        elif isinstance(event, Died):
            self._bury(event)
        elif isinstance(event, Done):
            return self._finish(event)
        elif isinstance(event, Lost):
            call = self._end(event.call)
            for job in call.jobs if call is not None else ():
                self._losses[job.number] += 1
                if self._losses[job.number] >= MAX_LOSSES:
                    self._give_up(job, f"its answer was lost {MAX_LOSSES} times: {event.reason}")
                elif job.number in self._open:
                    self._queue(job)
        elif isinstance(event, Failed):
            call = self._end(event.call)
            for place, job in enumerate(call.jobs if call is not None else ()):
                if place == event.place:
                    self._give_up(job, f"failed: {event.reason}")
                elif job.number in self._open:
                    self._queue(job)
        return []

    def _finish(self, event: Done) -> list[tuple[Job, np.ndarray]]:
        call = self._end(event.call)
        if call is None:  # it was taken to be lost
            return []
        if call.cost and event.seconds > 0:
            rate = event.seconds / call.cost
            self._rate = rate if self._rate is None else 0.8 * self._rate + 0.2 * rate
        done = []
        for job, array in zip(call.jobs, event.arrays, strict=True):
            if job.number in self._open:  # else another worker was faster
                self._open.remove(job.number)
                self._deaths.pop(job.number, None)
                self._losses.pop(job.number, None)
                done.append((job, array))
        return done

    def _end(self, number: int) -> _Call | None:
        call = self._calls.pop(number, None)
        if call is not None and call.slot in self._slots:
            slot = self._slots[call.slot]
            slot.calls.pop(number, None)
            slot.alone = False
            self._place(call.slot)
            slot.since = self._workers.now()
        return call

    def _bury(self, event: Died) -> None:
        slot = self._slots.pop(event.slot, None)
        self._place(event.slot)
        if not self._slots:
            self._alone_since = self._workers.now()
        for call in slot.calls.values() if slot else ():
            self._calls.pop(call.number, None)
            self._blame(call.jobs, event.reason)
        # Others may have gone with it, unnoticed as they were idle. Before they are sent a job,
        # which would be blamed for their death, an empty call finds out.
        for number in list(self._free[0]):
            self._send(number, [])

    def _blame(self, jobs: list[Job], reason: str) -> None:
        line = (reason.strip().splitlines() or ["unknown"])[0]
        for job in jobs:
            if job.number not in self._open:
                continue
            self._deaths[job.number] += 1
            if self._deaths[job.number] >= MAX_DEATHS:
                self._give_up(
                    job,
                    f"was in flight at {MAX_DEATHS} workers that died; scores so far are kept; "
                    f"the last death: {line}",
                )
            else:
                self._queue(job)

    def _give_up(self, job: Job, why: str) -> None:
        if job.number not in self._open:
            return
        self._open.remove(job.number)
        if not self._may_drop(job) and self._error is None:
            self._error = EngineError(f"{job} {why}")

    def _look_for_slow(self) -> None:
        """Give what a slow worker is at to another one too."""
        self._overdue = False
        if self.waiting or self._rate is None:
            return  # the others have other things to do
        now = self._workers.now()
        free = [number for level in self._free for number in level]
        for number, slot in self._slots.items():
            call = next((call for call in slot.calls.values() if not call.again), None)
            if call is None or not call.jobs:
                continue
            expected = max(SLOW_SECONDS, SLOW_FACTOR * call.cost * self._rate)
            if now - slot.since <= expected:
                continue
            self._overdue = True
            other = next((other for other in free if other != number), None)
            if other is not None:
                free.remove(other)
                call.again = True
                jobs = [job for job in call.jobs if job.number in self._open]
                self.sent_twice += len(jobs)
                self._send(other, jobs)

    def _check_alone(self) -> None:
        waited = self._workers.now() - self._alone_since
        if not self._slots and waited > PATIENCE_SECONDS:
            raise EngineError(
                f"no worker was up for {PATIENCE_SECONDS / 60:.0f} minutes; scores so far are kept"
            )

    # Sending

    def _queue(self, job: Job) -> None:
        heapq.heappush(self._queues[job.piece.shard], (-job.cost, job.number, job))
        self._loads[job.piece.shard] += job.cost
        self.waiting += 1

    def _pop(self, queue: list[tuple[float, int, Job]]) -> Job:
        self.waiting -= 1
        job = heapq.heappop(queue)[-1]
        self._loads[job.piece.shard] = self._loads[job.piece.shard] - job.cost if queue else 0.0
        return job

    def _is_over(self, job: Job) -> bool:
        """Whether another worker has computed it since it was queued again."""
        return job.number not in self._open

    def _pump(self, fill: bool = True) -> bool:
        """Send to every worker that has room: one call to each, then a second where it may.

        Args:
            fill: whether those that nothing is left for get work ahead.

        Returns:
            Whether there may be workers left to be filled.
        """
        filled = 0
        for load in range(self._workers.depth):
            for number in [n for level in self._free[: load + 1] for n in level]:
                idle = not self._slots[number].calls
                if load and not idle and self.waiting <= len(self._slots):
                    return False  # the last jobs are for who is done first
                jobs: list[Job] = []
                while self.waiting and not jobs:
                    before = self.waiting
                    jobs = self._take(number, idle)
                    if self.waiting == before:  # nothing for this one
                        break
                if not self.waiting and not jobs:
                    if not idle or not fill or self._overdue:
                        return False
                    if filled == FILLED_AT_ONCE:
                        return True
                    job = self._filler(self._home(number))
                    if job is None:
                        return False
                    self._open.add(job.number)
                    jobs, filled = [job], filled + 1
                if jobs:
                    self._send(number, jobs)
        return False

    def _take(self, number: int, idle: bool) -> list[Job]:
        """Return what a worker is to compute next: of its own shard, or of one that is behind."""
        queue = self._queues[self._home(number)]
        if not queue:
            if not idle:
                return []
            queue = self._queues[self._loads.index(max(self._loads))]
        jobs, cost = [self._pop(queue)], 0.0
        if self._is_over(jobs[0]):
            return []
        if self._is_suspect(jobs[0]):
            if not idle:  # it must run by itself
                self._queue(jobs[0])
                return []
            return jobs
        share = len(queue) // max(1, len(self._slots) // self._shards)
        while queue and len(jobs) < min(CALL_JOBS, share // 2):
            if self._is_over(queue[0][-1]):
                self._pop(queue)
                continue
            cost += jobs[-1].cost
            expected = self.seconds(cost)
            if expected is None or expected >= self.least_call or self._is_suspect(queue[0][-1]):
                break
            jobs.append(self._pop(queue))
        return jobs

    def _is_suspect(self, job: Job) -> bool:
        return job.number in self._deaths

    def _place(self, number: int) -> None:
        """Note how much room a worker has."""
        for level in self._free:
            level.pop(number, None)
        slot = self._slots.get(number)
        if slot is not None and not slot.alone and len(slot.calls) < len(self._free):
            self._free[len(slot.calls)][number] = None

    def _send(self, number: int, jobs: list[Job]) -> None:
        slot, now = self._slots[number], self._workers.now()
        call = _Call(self._next_call, number, jobs, now)
        self._next_call += 1
        if not slot.calls:
            slot.since = now
        slot.alone = any(self._is_suspect(job) for job in jobs)
        slot.calls[call.number] = self._calls[call.number] = call
        self._place(number)
        self._workers.send(number, call.number, jobs)
