"""Ask and tell: the very search, answered by the caller."""

from __future__ import annotations

import doctest
import gc
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import headsearch
from headsearch import Study
from headsearch.errors import InputError
from headsearch.heads import HeadSet
from headsearch.search.astar import Result, Settings, search
from headsearch.search.problem import OUTPUTS, Node
from headsearch.study import ask_tell
from tests.search.lattice import Lattice, brute_force
from tests.words import texts_and_labels, tiny_tokenizer, trained_model

LABELS = [0, 1, 1]
FULL = [[3.0, 0.0], [0.0, 3.0], [0.0, 3.0]]  # all right


def lattice(**options: Any) -> Lattice:
    """One whose answers are always whole."""
    made = Lattice((3, 4, 2), **{"seed": 4, "max_drop": 0.1} | options)
    made.rounds = ()
    return made


def study_of(made: Lattice, **options: Any) -> Study:
    return Study(
        made.shape.heads_per_layer,
        made.problem.objective.labels,
        max_drop=made.problem.max_drop,
        **options,
    )


def answer(study: Study, made: Lattice) -> list[list[HeadSet]]:
    """Answer until nothing is asked any more; return what was asked."""
    asked = []
    while batch := study.ask():
        states = [made.shape.from_pairs(pairs) for pairs in batch]
        study.tell([made.of(state) for state in states])
        asked.append(states)
    return asked


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "headsearch-study"]


@pytest.mark.parametrize("options", [{}, {"max_evaluations": 60}, {"max_expansions": 1}])
def test_it_takes_the_course_of_the_search_itself(options: dict[str, Any]) -> None:
    made = lattice()
    with study_of(made, **options) as study:
        asked = answer(study, made)
    found: Result = search(replace(made.problem, gradients=False), made, Settings(**options))
    assert all(ask.kind == OUTPUTS for asks in made.questions for ask in asks)
    assert asked == [[s for ask in asks for s in ask.states] for asks in made.questions]
    assert study.stopped == found.stopped

    def told(node: Node) -> tuple[Any, ...]:
        pairs = tuple((layer, head) for layer, head in made.shape.pairs(node.heads))
        return (pairs, node.weight, node.score.metric, node.score.loss, node.score.correct)

    def held(point: Any) -> tuple[Any, ...]:
        return (point.removed, point.saved, point.metric, point.loss, point.correct)

    assert held(study.best) == told(found.best)
    assert [held(point) for point in study.points] == [told(node) for node in found.points]
    assert [held(point) for point in study.safer_points] == [told(node) for node in found.safer]
    assert sum(map(len, asked)) == found.evaluations


def test_without_a_budget_it_finds_the_best_there_is() -> None:
    made = lattice(seed=6, interaction=0.5)
    with study_of(made, patience=0) as study:
        answer(study, made)
    heads, score = brute_force(made)
    assert made.shape.from_pairs(study.best.removed) == heads
    assert study.best.correct == score.correct
    assert study.stopped == "frontier exhausted"


def test_it_is_told_of_a_model_by_a_plain_loop() -> None:
    model, tokenizer = trained_model(), tiny_tokenizer()
    texts, names = texts_and_labels(60, seed=5)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    labels = [int(name == "pos") for name in names]

    def logits(removed: Any) -> torch.Tensor:
        """By nothing but transformers: a removed head's part of the output's input is 0."""
        hooks = []
        for number, layer in enumerate(model.bert.encoder.layer):
            gate = torch.ones(4)
            gate[[head for at, head in removed if at == number]] = 0
            wide = gate.repeat_interleave(6)  # each head's width
            hook = layer.attention.output.dense.register_forward_pre_hook(
                lambda _, args, wide=wide: (args[0] * wide,)
            )
            hooks.append(hook)
        with torch.no_grad():
            outputs = model(**inputs).logits
        for hook in hooks:
            hook.remove()
        return outputs

    with Study([4, 4, 4], labels, max_drop=0.05, max_evaluations=50) as study:
        while batch := study.ask():
            study.tell([logits(removed) for removed in batch])

    assert study.stopped == "evaluation budget spent"
    full, best = study.points[-1], study.best
    assert best.heads_removed >= 1
    assert best.correct is not None
    right = int((logits(()).argmax(1) == torch.tensor(labels)).sum())
    assert best.correct >= right - 3  # 5 % of 60
    assert full.metric >= right / 60
    pruned = headsearch.prune(model, best.removed)
    with torch.no_grad():
        answers = pruned(**inputs).logits.argmax(1)
    assert int((answers == torch.tensor(labels)).sum()) == best.correct


def test_regressions_too() -> None:
    values = np.array([0.1, 0.5, 0.9])
    with Study([2], values, metric="pearson", max_drop=0.2) as study:
        while batch := study.ask():
            # Without head 1 nothing is told apart; head 0 does no harm.
            scale = [0.0 if (0, 1) in heads else 1.0 for heads in batch]
            study.tell([values[:, None] * each for each in scale])
    assert study.best.removed == ((0, 0),)
    assert study.best.correct is None


def test_asking_again_asks_the_same_and_what_is_told_is_copied() -> None:
    study = Study([2, 2], LABELS)
    assert study.ask() == study.ask() == [()]
    mine = np.array(FULL)
    study.tell(each for each in [mine])
    mine[:] = 0
    assert study.best.metric == 1.0
    assert study.ask() == study.ask() != [()]
    study.close()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([], "`outputs` must be 1 arrays, one for each set of heads that was asked for, but got 0"),
        ([FULL, FULL], "but got 2"),
        (None, "`outputs` must be 1 arrays, .* but got None"),
        ([FULL[:2]], r"the shape \(examples, classes\), \(3, 2 or more\), but got \(2, 2\)"),
        ([[[1.0]] * 3], r"\(3, 2 or more\), but got \(3, 1\)"),
        ([[1.0] * 3], r"but got \(3,\)"),
        ([[["a", "b"]] * 3], "outputs must be numbers"),
        ([[[1.0, 2.0], [1.0], [1.0]]], "outputs must be numbers"),
        ([torch.ones(3, 2, requires_grad=True)], "outputs must be numbers.*detach"),
        (
            [[[np.inf, 0.0], *FULL[1:]]],
            "the full model's outputs must be finite but 1 of 3 are not",
        ),
    ],
)
def test_wrong_answers_are_refused_and_can_be_told_again(outputs: Any, message: str) -> None:
    with Study([2, 2], LABELS) as study:
        with pytest.raises(InputError, match=message):
            study.tell(outputs)
        with pytest.raises(InputError, match="`best` must come after a `tell`"):
            _ = study.best
        study.tell([FULL])
        with pytest.raises(InputError, match="must come after an `ask`"):
            study.tell([FULL])
        batch = study.ask()
        with pytest.raises(InputError, match=r"\(3, 2\), but got \(3, 3\)"):
            study.tell([[[1.0, 0.0, 0.0]] * 3] * len(batch))
        assert study.ask() == batch


def test_a_full_model_that_nothing_can_be_compared_with_can_be_told_again() -> None:
    with Study([2, 2], [1.0, 2.0, 3.0], metric="pearson") as study:
        with pytest.raises(
            InputError, match="can't be compared with: its outputs are all the same"
        ):
            study.tell([[[1.0]] * 3])
        study.tell([[[1.0], [2.0], [3.0]]])
        assert study.best.metric == pytest.approx(1)
        assert study.ask()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads_per_layer": 12}, "`heads_per_layer` must be whole numbers.* but got 12"),
        ({"heads_per_layer": []}, "`heads_per_layer` must be whole numbers"),
        ({"heads_per_layer": [0]}, "not all of them 0, but got"),
        ({"heads_per_layer": [2.0]}, "`heads_per_layer` must be whole numbers"),
        ({"heads_per_layer": [-1, 2]}, "`heads_per_layer` must be whole numbers"),
        ({"labels": []}, r"`labels` must be class ids from 0 on, \(examples,\)"),
        ({"labels": [-1, 0]}, "`labels` must be class ids"),
        ({"labels": [0.5, 1.0]}, "`labels` must be class ids"),
        ({"labels": [[0, 1]]}, "`labels` must be class ids"),
        ({"labels": ["a"]}, "`labels` must be class ids"),
        ({"labels": [np.nan], "metric": "pearson"}, "`labels` must be finite numbers"),
        (
            {"labels": [2.5, 2.5], "metric": "pearson"},
            "`labels` must not all be the same for the metric pearson.* but all 2 are 2.5",
        ),
        ({"labels": [1, 1], "metric": "matthews"}, "`labels` must not all be the same"),
        ({"metric": "perplexity"}, "`metric` must be one of accuracy, f1, matthews"),
        ({"metric": "bleu"}, "`metric` must be one of"),
        ({"max_drop": 1}, "`max_drop` must be in"),
        ({"max_evaluations": 0}, "`max_evaluations` must be at least 1"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Study(**{"heads_per_layer": [2, 2], "labels": LABELS} | options)


def test_no_thread_is_left_behind() -> None:
    made = lattice()
    ended = study_of(made, max_evaluations=5)
    answer(ended, made)
    closed = study_of(made)
    closed.tell([made.of(HeadSet())])
    closed.close()
    closed.close()
    assert (closed.stopped, closed.ask()) == ("closed", [])
    assert closed.best.heads_removed == 0
    with pytest.raises(InputError, match="must come after an `ask`"):
        closed.tell([])
    dropped = study_of(made)
    dropped.tell([made.of(HeadSet())])
    dropped.ask()
    left = threads()
    del dropped
    gc.collect()
    for thread in left:
        thread.join(timeout=60)
    assert threads() == []


def test_what_the_search_raises_is_raised_where_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr("headsearch.study.talk.search", lambda *_: broken())
    study = Study([2, 2], LABELS)
    with pytest.raises(ZeroDivisionError, match="made up"):
        study.tell([FULL])
    assert study.ask() == []


def test_it_needs_no_torch_and_a_program_may_end_without_closing() -> None:
    code = (
        "import sys, headsearch\n"
        "study = headsearch.Study([2, 2], [0, 1], max_drop=0.5)\n"
        "study.tell([[[1, 0], [0, 1]]])\n"
        "print(study.ask(), 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip().endswith("] False")
    assert done.stderr == ""


FORKED = """
import os, signal, threading
import numpy as np
import headsearch
from headsearch.search import proposals
from headsearch.search.guides import base
from headsearch.search.surrogate import one_thread

dice = np.random.default_rng(0)
labels = dice.integers(0, 2, 50)
full = dice.normal(size=(50, 2)) + 2 * np.eye(2)[labels]
effects = dice.normal(size=(3, 8, 50, 2)) * 0.3


def found():
    study = headsearch.Study([8] * 3, labels, max_drop=0.1, max_evaluations=150)
    while batch := study.ask():
        study.tell([full + sum(effects[pair] for pair in heads) for heads in batch])
    return study.best


before = found()
assert proposals._threads()._threads and base._pool()._threads, "both were of use"
begun, over = threading.Event(), threading.Event()


def compute():
    with one_thread():
        begun.set()
        over.wait()


threading.Thread(target=compute).start()
begun.wait()
child = os.fork()  # while another thread has its turn
over.set()
if not child:
    signal.alarm(90)  # none that waits for ever is left behind
    os._exit(0 if found() == before else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_process_that_is_forked_off_one_that_searched_can_search_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "0"


def test_the_example_of_its_docstring_is_true() -> None:
    assert doctest.testmod(ask_tell).failed == 0
