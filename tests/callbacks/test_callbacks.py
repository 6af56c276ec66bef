"""What callbacks are told of a search, and that they change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import headsearch
from headsearch.api import OperatingPoint
from headsearch.callbacks import Callback
from headsearch.errors import InputError
from headsearch.heads import HeadMap
from tests.callbacks.told import OPTIONS, Told, searched


@pytest.fixture(scope="module")
def told() -> Told:
    told = Told()
    told.returned = searched(callbacks=[told])
    return told


def test_steps_are_those_of_the_transcript(told: Told) -> None:
    steps = [value for name, value in told.calls if name == "on_expansion"]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert steps[0]["kind"] == "baseline"
    assert len({step["kind"] for step in steps}) > 2
    assert json.loads(json.dumps(steps)) == steps
    evaluations = [step["evaluations"] for step in steps]
    assert evaluations == sorted(evaluations)
    assert evaluations[-1] == told.returned.details["evaluations"]


def test_incumbents_become_better_and_the_last_is_the_best(told: Told) -> None:
    points = [value for name, value in told.calls if name == "on_incumbent"]
    assert all(isinstance(point, OperatingPoint) for point in points)
    assert points[0].heads_removed > 0, "the full model is no incumbent"
    saved = [(point.heads_removed, -point.loss) for point in points]
    assert saved == sorted(set(saved))
    assert points[-1] == told.returned.best
    # Each is told before the step that it is part of.
    best: list[Any] = [0]
    for name, value in told.calls:
        if name == "on_incumbent":
            best = [value.heads_removed, value.metric, value.loss]
        elif name == "on_expansion":
            assert value["best"][: len(best)] == best


def test_the_end_is_told_once_and_last(told: Told) -> None:
    assert [name for name, _ in told.calls].index("on_end") == len(told.calls) - 1
    assert told.calls[-1][1] == told.returned


def test_callbacks_change_nothing(told: Told) -> None:
    class Spoils(Callback):
        def on_expansion(self, step: Any) -> bool:
            step.clear()
            return False

        def on_end(self, result: headsearch.SearchResult) -> None:
            result.details.clear()

    plain, spoiled = searched(), searched(callbacks=[Spoils(), Spoils()])
    for result in (plain, spoiled):
        assert (result.best, result.operating_points) == (
            told.returned.best,
            told.returned.operating_points,
        )
        assert result.details["evaluations"] == told.returned.details["evaluations"]


def test_all_are_called_in_order_and_need_not_have_all_methods() -> None:
    order: list[str] = []

    class First:
        def on_expansion(self, step: Any) -> None:
            order.append("first")

    class Second:
        def on_expansion(self, step: Any) -> None:
            order.append("second")

    class Ends:
        def on_end(self, result: headsearch.SearchResult) -> None:
            order.append("end")

    searched(callbacks=[First(), Ends(), Second()], max_evaluations=3)
    assert order[:2] == ["first", "second"]
    assert order == ["first", "second"] * (len(order) // 2) + ["end"]


@pytest.mark.parametrize("method", ["on_expansion", "on_incumbent", "on_end"])
def test_what_a_callback_raises_ends_the_search(method: str, tmp_path: Path) -> None:
    class OwnError(Exception):
        pass

    def broken(self: Any, value: Any) -> None:
        raise OwnError

    told, memo = Told(), tmp_path / "memo.sqlite"
    with pytest.raises(OwnError):
        searched(callbacks=[type("Broken", (), {method: broken})(), told], memo=memo)
    assert method not in [name for name, _ in told.calls]
    assert [path.name for path in tmp_path.iterdir()] == ["memo.sqlite"]
    again = searched(memo=memo)  # the scores that were there by then are of use
    assert HeadMap.from_mask(again.mask)[1]


@pytest.mark.parametrize("wrong", [object(), Told, "print", None])
def test_what_is_no_callback_is_refused_before_anything_else(wrong: object) -> None:
    with pytest.raises(InputError, match="a callback must be an object with some of the methods"):
        headsearch.search(None, None, None, callbacks=[wrong])


@pytest.mark.parametrize("wrong", [Callback(), None])
def test_callbacks_are_a_list(wrong: Any) -> None:
    with pytest.raises(InputError, match="`callbacks` must be a list of callbacks but got"):
        searched(callbacks=wrong)


def test_options_are_still_checked() -> None:
    with pytest.raises(InputError, match="did you mean `max_evaluations`"):
        searched(max_evaluation=OPTIONS["max_evaluations"])
