"""A search's questions, recorded once and asked again of the dispatcher in virtual time.

What a search asks does not depend on who answers, so one recording serves any number of workers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from time import perf_counter

import numpy as np

from headsearch.engine.ahead import ASKS_AHEAD
from headsearch.engine.dispatch import Dispatcher
from headsearch.engine.executor import Done, Event, Job, Plan, Workers
from headsearch.engine.simulated import Cache, Costs, SimulatedWorkers
from headsearch.heads import HeadMap, HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.search.problem import GRADIENTS, OUTPUTS, Ask, Oracle, Ready
from headsearch.task.shards import Layout

# Gradients are large: what the coordinator takes in, in bytes a second.
BYTES_A_SECOND = 1e9


@dataclass
class Question:
    """One call of the oracle.

    Attributes:
        think: seconds that the search took since the last answer.
        asks: as asked; `decide` only says whether there was one.
        ahead: what was likely to be asked next.
        look: seconds that it took to say so.
    """

    think: float
    asks: list[Ask]
    ahead: list[Ask]
    look: float


@dataclass
class Log:
    """All that a search asked, and after how many rows each answer ended."""

    shape: HeadMap
    classes: int
    questions: list[Question] = field(default_factory=list)
    rows: dict[tuple[str, HeadSet], int] = field(default_factory=dict)  # of the last answer
    tail: float = 0.0  # seconds from the last answer to the end
    # Seconds that the search took for each answer while it waited for others.
    ready: dict[HeadSet, float] = field(default_factory=dict)

    @property
    def think(self) -> float:
        """Seconds that the search itself took."""
        thought = sum(question.think for question in self.questions)
        return thought + self.tail + sum(self.ready.values())


class Recorder:
    """An oracle that writes down what is asked of another."""

    def __init__(self, oracle: Oracle, log: Log) -> None:
        self._oracle, self.log = oracle, log
        self._answered = perf_counter()

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        think, began = perf_counter() - self._answered, perf_counter()
        following = list(islice(ahead(), ASKS_AHEAD))
        look = perf_counter() - began

        def timed(state: HeadSet, answer: np.ndarray) -> None:
            began = perf_counter()
            ready(state, answer)
            self.log.ready[state] = perf_counter() - began

        answers = self._oracle.ask(asks, lambda: following, timed)
        for ask, answer in zip(asks, answers, strict=True):
            for state, array in zip(ask.states, answer, strict=True):
                self.log.rows[ask.kind, state] = len(array)
        self.log.questions.append(Question(think, list(asks), following, look))
        self._answered = perf_counter()
        return answers

    def end(self) -> None:
        """Note the search's end."""
        self.log.tail = perf_counter() - self._answered


@dataclass(frozen=True)
class CostModel:
    """Seconds of a job on one worker.

    Attributes:
        unit: for a position and a forward pass from the embeddings up.
        trace: of a parent that is not cached, for a position.
        gradient: for a position.
        batch: for a child and a batch.
        call: for a call.
    """

    unit: float
    trace: float
    gradient: float
    batch: float = 0.0
    call: float = 0.0

    def seconds(self, job: Job, cached: bool) -> float:
        """Return what a job takes."""
        if job.item.kind == GRADIENTS:
            return self.gradient * job.piece.load
        batches = job.piece.span.stop - job.piece.span.first
        return (
            self.unit * job.cost
            + (0.0 if cached else self.trace * job.piece.load)
            + self.batch * batches * len(job.item.children)
        )


class Watched:
    """Workers whose calls are written down: slot, jobs and seconds, in order of their end."""

    def __init__(self, inner: Workers) -> None:
        self._inner = inner
        self.name, self.plan = inner.name, inner.plan
        self.depth, self.alone = inner.depth, inner.alone
        self._sent: dict[int, tuple[int, list[Job]]] = {}
        self.calls: list[tuple[int, list[Job], float]] = []

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        self._sent[call] = (slot, list(jobs))
        self._inner.send(slot, call, jobs)

    def poll(self, timeout: float) -> list[Event]:
        events = self._inner.poll(timeout)
        for event in events:
            if isinstance(event, Done):
                self.calls.append((*self._sent.pop(event.call), event.seconds))
        return events

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def fit(calls: Sequence[tuple[int, list[Job], float]], plan: Plan, trace_bytes: int) -> CostModel:
    """Return the cost model that explains recorded calls best, by least squares of their ratios."""
    caches: dict[int, Cache] = {}
    rows, seconds = [], []
    for slot, jobs, took in calls:
        cache = caches.setdefault(slot, Cache(plan.cache_bytes))
        features = np.zeros(5)
        features[4] = 1.0
        for job in jobs:
            if job.item.kind == GRADIENTS:
                features[2] += job.piece.load
                continue
            size = job.piece.load * trace_bytes
            held = cache.hit(job.item.parent, job.piece.span.first, size, job.speculative)
            batches = job.piece.span.stop - job.piece.span.first
            features += (
                job.cost,
                0.0 if held else job.piece.load,
                0.0,
                batches * len(job.item.children),
                0.0,
            )
        if jobs:
            rows.append(features)
            seconds.append(took)
    # Weighted so that the sum of all is met, not each short call by itself.
    found = _non_negative(np.array(rows), np.array(seconds))
    return CostModel(*(float(value) for value in found))


def _non_negative(rows: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    scale = rows.max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(rows / scale, seconds)
    return np.asarray(found / scale)


@dataclass(frozen=True)
class Replayed:
    """What a replay took.

    Attributes:
        seconds: from the first answer to the end, as real runs are timed.
        total: all of it.
        busy: of all workers together.
        ideal: of the work that was asked for, were each parent computed once for each ask.
        coordinator: of the coordinator, the search's own part included.
        used: share of the work done ahead of the search that it asked for later.
        items: jobs sent.
    """

    seconds: float
    total: float
    busy: float
    ideal: float
    coordinator: float
    used: float
    items: int


def replay(
    log: Log,
    plan: Plan,
    costs: CostModel,
    trace_bytes: int,
    *,
    send: float = 0.0,
    latency: float = 0.0,
) -> Replayed:
    """Ask a recorded search's questions of the real dispatcher over simulated workers."""
    layout = plan.layout
    ends = [layout.offsets[span.stop] for span in layout.rounds]
    arrays: dict[tuple[int, int, int], np.ndarray] = {}

    def compute(job: Job) -> list[np.ndarray]:
        rows = layout.rows_of(job.piece.span)
        if job.item.kind == GRADIENTS:
            workers.spend(4 * rows * log.classes * log.shape.total / BYTES_A_SECOND)
        return [
            _array(
                arrays,
                rows,
                1 if job.item.kind == GRADIENTS else log.classes,
                log.rows.get((job.item.kind, state), layout.rows),
            )
            for state in job.item.states
        ]

    def decide(outputs: np.ndarray, examples: np.ndarray) -> bool:
        """Go on until the rows of the recorded answer are reached."""
        return ends[bisect_right(ends, len(outputs)) - 1] < outputs[0, 0]

    workers = SimulatedWorkers(
        plan,
        Costs(costs.seconds, trace_bytes, call=costs.call + latency, send=send),
        compute,
    )
    dispatcher = Dispatcher(workers, MemoryStore(), log.shape)
    first = 0.0
    for number, question in enumerate(log.questions):
        workers.spend(question.think)
        asks = [replace(ask, decide=decide if ask.decide else None) for ask in question.asks]

        def ahead(question: Question = question) -> list[Ask]:
            workers.spend(question.look)
            return [replace(ask, decide=decide if ask.decide else None) for ask in question.ahead]

        dispatcher.ask(asks, ahead, lambda state, _: workers.spend(log.ready[state]))
        if number == 0:
            first = workers.now()
    workers.spend(log.tail)
    counts = dispatcher.counts
    return Replayed(
        seconds=workers.now() - first,
        total=workers.now(),
        busy=workers.busy_seconds,
        ideal=ideal(log, layout, costs),
        coordinator=workers.coordinator_seconds,
        used=counts.used / counts.speculative if counts.speculative else 1.0,
        items=dispatcher.cutter.made,
    )


def ideal(log: Log, layout: Layout, costs: CostModel) -> float:
    """Return the seconds of all work asked for on one worker that has no other."""
    positions = layout.load / layout.rows
    seconds, seen = 0.0, set[tuple[str, HeadSet]]()
    for question in log.questions:
        for ask in question.asks:
            for state in ask.states:
                if (ask.kind, state) in seen:
                    continue
                seen.add((ask.kind, state))
                load = log.rows[ask.kind, state] * positions
                if ask.kind == GRADIENTS:
                    seconds += costs.gradient * load
                else:
                    first = log.shape.first_layer(state ^ ask.parent)
                    seconds += costs.unit * load * (1 - first / (log.shape.layers + 1))
            if ask.kind == OUTPUTS:
                seconds += costs.trace * layout.load * (len(ask.states) > 1)
    return seconds


def _array(
    arrays: dict[tuple[int, int, int], np.ndarray], rows: int, classes: int, value: int
) -> np.ndarray:
    key = (rows, classes, value)
    if key not in arrays:
        arrays[key] = np.full((rows, classes), value, np.float32)
    return arrays[key]
