"""The suite that every family passes: a mask that is wrong must never go unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from headsearch.errors import ModelError
from headsearch.model.families import (
    FAST_PATH,
    GATE,
    NARROW,
    SAVE,
    SEARCH,
    family_of,
    fast_family_of,
    kind_of,
)
from headsearch.model.plain import inputs_of, rows_of
from headsearch.task.batches import Batch
from headsearch.testing import checks
from headsearch.testing.subject import CPU
from headsearch.testing.table import capabilities_of


@dataclass(frozen=True)
class Check:
    """One property of a family.

    Attributes:
        needs: the capability that it is about.
        run: raises AssertionError if it does not hold of (tiny model, batches).
    """

    needs: str
    run: Callable[[nn.Module, Sequence[Batch]], None]

    def __str__(self) -> str:
        return self.run.__name__.replace("_", " ")


CHECKS: tuple[Check, ...] = (
    Check(GATE, checks.exactly_one_family_matches),
    Check(GATE, checks.every_head_has_an_effect),
    Check(GATE, checks.gate_equals_zeroed_projection),
    Check(GATE, checks.gates_may_differ_between_examples),
    Check(GATE, checks.gates_are_gone_afterwards),
    Check(NARROW, checks.narrow_equals_gate),
    Check(NARROW, checks.narrow_twice_equals_once),
    Check(NARROW, checks.a_narrow_model_can_be_gated),
    Check(SAVE, checks.saved_and_loaded_is_the_same),
    Check(SEARCH, checks.a_worker_gets_the_same_model),
    Check(SEARCH, checks.evaluator_equals_plain),
    Check(SEARCH, checks.a_score_depends_on_its_state_alone),
    Check(SEARCH, checks.gradients_equal_finite_differences),
    Check(FAST_PATH, checks.fast_path_equals_stock_forward),
)
# Instead of those that need it.
REFUSAL = Check(NARROW, checks.cutting_is_refused)


def check_family(model: nn.Module, batches: Sequence[Batch]) -> None:
    """Run all checks that apply to a model of a known or registered family.

    Args:
        model: a tiny random model in float32, with something on top that gives logits. Weights as
            they are initialised hide small effects: make them larger. It is not changed.
        batches: two or more with what its forward takes; some padding should be in them.

    Raises:
        AssertionError: names the first check that does not hold.
        UnknownFamilyError: the model is of no known family.
    """
    for check in checks_for(model, batches):
        try:
            check.run(model, batches)
        except Exception as error:
            raise AssertionError(f"{family_of(model).name}: {check}: {error}") from error


def checks_for(model: nn.Module, batches: Sequence[Batch]) -> tuple[Check, ...]:
    """Return the checks that apply: by what the family can do, and what the model has on top."""
    can = {name: reason is None for name, reason in capabilities_of(family_of(model)).items()}
    can[SEARCH] = _is_classifier(model, batches[0])
    can[FAST_PATH] = fast_family_of(model) is not None
    found = tuple(check for check in CHECKS if can[check.needs])
    return found if can[NARROW] else (*found, REFUSAL)


def _is_classifier(model: nn.Module, batch: Batch) -> bool:
    try:
        kind_of(model)
        with torch.inference_mode():
            rows_of(model.eval(), batch, inputs_of(batch, CPU))
    except ModelError:
        return False
    return True
