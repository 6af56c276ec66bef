"""The scheduler in virtual time: who gets what, who is slow, who dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from headsearch.engine import scheduler as module
from headsearch.engine.executor import Done, Event, Failed, Job, Lost, Plan
from headsearch.engine.scheduler import Scheduler
from headsearch.engine.simulated import Costs, SimulatedWorkers
from headsearch.errors import EngineError
from headsearch.search.astar import Settings
from tests.engine import tables
from tests.engine.tasks import drain, job, plan

ONE_SECOND = Costs(lambda job, cached: 1.0)


class Watched(SimulatedWorkers):
    """Notes what was sent where."""

    def __init__(self, made: Plan, costs: Costs = ONE_SECOND, **options: object) -> None:
        self.sent: list[tuple[int, list[int]]] = []
        super().__init__(made, costs, result, coordinator=False, **options)

    def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
        self.sent.append((slot, [each.number for each in jobs]))
        super().send(slot, call, jobs)


def result(job: Job) -> np.ndarray:
    return np.full((1, 1), job.number)


def finish(workers: SimulatedWorkers, count: int, **options: float) -> list[int]:
    scheduler = Scheduler(workers)
    pieces = workers.plan.layout.pieces
    for number in range(count):
        scheduler.submit(job(number, pieces[number % len(pieces)], 1, **options))
    done = drain(scheduler)
    assert all(array[0, 0] == each.number for each, array in done)
    assert not scheduler.pending
    return [each.number for each, _ in done]


def test_jobs_go_to_the_workers_of_their_shard() -> None:
    workers = Watched(plan(3, 3))
    assert sorted(finish(workers, 24)) == list(range(24))
    pieces = workers.plan.layout.pieces
    homes = [
        pieces[number % len(pieces)].shard == slot for slot, sent in workers.sent for number in sent
    ]
    assert sum(homes) > 18


def test_who_is_done_takes_what_is_left_of_others() -> None:
    workers = Watched(plan(4, 4))
    scheduler = Scheduler(workers)
    shard = [p for p in workers.plan.layout.pieces if p.shard == 2]
    for number in range(16):
        scheduler.submit(job(number, shard[0], 1))
    drain(scheduler)
    assert {slot for slot, _ in workers.sent} == {0, 1, 2, 3}
    assert workers.now() <= 6  # 16 jobs of a second on four workers, two of them queued early


def test_the_largest_goes_first() -> None:
    workers = Watched(plan(1, 1))
    scheduler = Scheduler(workers)
    piece = workers.plan.layout.pieces[0]
    for number, cost in enumerate((1.0, 5.0, 3.0)):
        scheduler.submit(job(number, piece, 1, cost=cost))
    drain(scheduler)
    assert [sent for _, sent in workers.sent] == [[1], [2], [0]]


def test_small_jobs_are_sent_together_once_it_is_known_that_they_are_small() -> None:
    workers = Watched(plan(2, 1), Costs(lambda job, cached: 0.001, call=0.01))
    assert sorted(finish(workers, 400)) == list(range(400))
    sizes = [len(sent) for _, sent in workers.sent]
    assert sizes[0] == 1
    assert max(sizes) > 5
    assert len(sizes) < 150
    large = Watched(plan(2, 1))
    finish(large, 40)
    assert max(len(sent) for _, sent in large.sent) == 1


def test_a_slow_workers_job_is_given_to_another_too_and_the_first_answer_counts() -> None:
    workers = Watched(plan(2, 1), slow={1: 1000.0})
    done = finish(workers, 20)
    assert sorted(done) == list(range(20))
    assert workers.now() < 100
    twice = [n for _, sent in workers.sent for n in sent]
    assert len(twice) > 20
    undisturbed = Watched(plan(2, 1))
    finish(undisturbed, 20)
    assert len(undisturbed.sent) == 20, "nobody is slow, nothing is sent twice"


def test_jobs_of_a_dead_worker_are_done_by_others() -> None:
    workers = Watched(plan(3, 3), deaths=[(2.5, 0), (4.2, 1), (4.3, 2)], start=3.0)
    assert sorted(finish(workers, 30)) == list(range(30))


def test_idle_workers_that_die_with_their_node_blame_no_job() -> None:
    """Nobody notices an idle worker's death, until it is sent something."""

    class Quiet(Watched):
        def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
            if slot < 5 and slot not in self.gone:
                self.gone.add(slot)
                self._at(self.now() + 0.1, lambda when: self._die(slot, when))
                return
            super().send(slot, call, jobs)

        gone: ClassVar[set[int]] = set()

    workers = Quiet(plan(8, 1))
    assert finish(workers, 1) == [0]
    assert len(workers.gone) > 3


def test_a_slow_worker_is_seen_while_others_work_ahead() -> None:
    workers = Watched(plan(2, 1), slow={1: 1000.0})
    piece = workers.plan.layout.pieces[0]
    numbers = iter(range(100, 10_000))
    scheduler = Scheduler(workers, lambda shard: job(next(numbers), piece, 1))
    for number in range(6):
        scheduler.submit(job(number, piece, 1))
    done: set[int] = set()
    while not done >= set(range(6)):
        done |= {each.number for each, _ in scheduler.collect()}
    assert workers.now() < 60


def test_lost_answers_blame_nobody_but_not_for_ever() -> None:
    class Loses(Watched):
        left = 10

        def poll(self, timeout: float) -> list[Event]:
            events = super().poll(timeout)
            for place, event in enumerate(events):
                if isinstance(event, Done) and self.left:
                    self.left -= 1
                    events[place] = Lost(event.call, "gone")
            return events

    assert finish(Loses(plan(1, 1)), 1) == [0]
    for_ever = Loses(plan(1, 1))
    for_ever.left = 10**6
    with pytest.raises(EngineError, match=r"^job 0 .* its answer was lost 20 times: gone"):
        finish(for_ever, 1)


def test_work_ahead_that_can_not_be_computed_is_dropped_unless_it_is_wanted() -> None:
    class Fails(Watched):
        def poll(self, timeout: float) -> list[Event]:
            events = super().poll(timeout)
            for place, event in enumerate(events):
                if isinstance(event, Done) and event.arrays[0][0, 0] in (3, 100):
                    events[place] = Failed(event.call, 0, "it does")
            return events

    workers = Fails(plan(1, 1))
    piece = workers.plan.layout.pieces[0]
    scheduler = Scheduler(workers, may_drop=lambda each: each.number >= 100)
    for number in (0, 1, 100):
        scheduler.submit(job(number, piece, 1))
    assert sorted(each.number for each, _ in drain(scheduler)) == [0, 1]
    for number in (2, 3, 4):
        scheduler.submit(job(number, piece, 1))
    done: list[int] = []

    def collect_all() -> None:
        while some := scheduler.collect():
            done.extend(each.number for each, _ in some)

    with pytest.raises(EngineError, match=r"^job 3 .* failed: it does"):
        collect_all()
    assert done == [2], "what was done is handed over before"


def test_all_workers_dead_at_once_is_waited_for() -> None:
    workers = Watched(plan(2, 2), deaths=[(1.5, 0), (1.5, 1)], start=500.0)
    assert sorted(finish(workers, 10)) == list(range(10))
    assert workers.now() > 500


def test_no_worker_for_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 100.0)
    workers = Watched(plan(1, 1), deaths=[(1.5, 0)], start=1e6)
    with pytest.raises(EngineError, match="no worker was up for"):
        finish(workers, 10)


def test_what_kills_three_workers_is_named_and_the_rest_is_done() -> None:
    class Deadly(Watched):
        def send(self, slot: int, call: int, jobs: Sequence[Job]) -> None:
            super().send(slot, call, jobs)
            if any(each.number == 5 for each in jobs):
                self._at(self.now() + 0.5, lambda when: self._die(slot, when))

    workers = Deadly(plan(2, 1))
    scheduler = Scheduler(workers)
    for number in range(12):
        scheduler.submit(job(number, workers.plan.layout.pieces[0], 1))
    done: list[int] = []

    def collect_all() -> None:
        while some := scheduler.collect():
            done.extend(each.number for each, _ in some)

    with pytest.raises(EngineError, match=r"^job 5 .* in flight at 3 workers that died; scores so"):
        collect_all()
    assert 5 not in done
    assert len(done) == len(set(done))


@pytest.mark.parametrize("workers", [1, 3, 16, 200])
def test_a_simulated_search_takes_the_course_of_a_real_one(workers: int) -> None:
    """The same results, so the same transcript, in any virtual time."""
    settings = Settings(max_evaluations=80, proposals=0)
    reference, _ = tables.run(tables.undisturbed(), settings=settings)
    simulated = SimulatedWorkers(
        tables.plan(workers, min(workers, 9)),
        Costs(lambda job, cached: job.cost * (0.001 if cached else 0.002), trace_bytes=10),
        tables.computed,
        deaths=[(n * 40.0 / workers, n % workers) for n in range(1, 9)],
        start=2.0,
    )
    transcript, dispatcher = tables.run(simulated, settings=settings)
    assert transcript == reference
    assert simulated.busy_seconds > 0
    assert (dispatcher.counts.speculative > 0) == (workers > 1)


def test_workers_get_work_ahead_for_as_long_as_the_search_will_think() -> None:
    workers = Watched(plan(3, 3))
    piece, given = workers.plan.layout.pieces[0], list[int]()
    scheduler = Scheduler(workers, lambda shard: job(given.pop(), piece, 1) if given else None)
    given.append(100)
    scheduler.fill(2.0)
    assert workers.sent == [], "how long a job takes is not known yet"
    given.clear()
    scheduler.submit(job(0, piece, 1))
    assert [each.number for each, _ in scheduler.collect()] == [0]
    given += range(101, 106)
    scheduler.fill(2.0)
    ahead = [numbers for _, numbers in workers.sent[1:]]
    assert sorted(map(len, ahead)) == [1, 2, 2], "two jobs of a second each, as long as there are"
    assert sorted(each.number for each, _ in drain(scheduler)) == list(range(101, 106))


def test_a_call_carries_more_where_there_are_many_workers() -> None:
    few, many = Scheduler(Watched(plan(2, 2))), Scheduler(Watched(plan(500, 2)))
    for scheduler in (few, many):
        scheduler.submit(job(0, scheduler._workers.plan.layout.pieces[0], 1))
        drain(scheduler)
    assert few.least_call == module.CALL_SECONDS
    assert many.least_call == pytest.approx(500 * module.SEND_SECONDS)


def test_the_last_jobs_wait_for_who_is_done_first() -> None:
    """A second call goes to a worker only while more jobs wait than there are workers."""
    workers = Watched(plan(3, 1))
    scheduler, piece = Scheduler(workers), workers.plan.layout.pieces[0]
    scheduler.submit(job(0, piece, 1))
    drain(scheduler)
    for number in range(1, 7):
        scheduler.submit(job(number, piece, 1))
    scheduler._pump()
    assert sorted(slot for slot, _ in workers.sent[1:]) == [0, 1, 2]
    for number in range(7, 9):
        scheduler.submit(job(number, piece, 1))
    scheduler._pump()
    assert len(workers.sent[1:]) == 5, "three wait, as many as there are workers"
    assert sorted(each.number for each, _ in drain(scheduler)) == list(range(1, 9))


def test_what_is_done_is_seen_while_many_workers_are_given_work_ahead() -> None:
    costs = Costs(lambda job, cached: 1e-6 if job.number == 1 else 1.0, send=1e-6)
    workers = Watched(plan(100, 1), costs)
    piece, numbers = workers.plan.layout.pieces[0], list[int]()
    scheduler = Scheduler(workers, lambda shard: job(numbers.pop(), piece, 1) if numbers else None)
    scheduler.submit(job(0, piece, 1))
    scheduler.collect()
    scheduler.submit(job(1, piece, 1))
    numbers += range(1000, 2000)
    assert [each.number for each, _ in scheduler.collect()] == [1]
    assert 1 < len(workers.sent[1:]) <= 1 + module.FILLED_AT_ONCE
    scheduler.submit(job(2, piece, 1))
    scheduler.collect()
    assert {slot for slot, _ in workers.sent[1:]} == set(range(100)), "in the end all have work"
