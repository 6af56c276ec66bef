"""A family of one's own, made known from outside, and what the suite finds in wrong ones."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import headsearch
from headsearch.errors import InputError, ModelError
from headsearch.heads import HeadSet
from headsearch.model.bundle import bundle, rebuild
from headsearch.model.families import (
    FAMILIES,
    OutputProjection,
    family_of,
    fast_family_of,
    head_rows,
    known_families,
    take_inputs,
    take_outputs,
)
from headsearch.model.families import registry as registry_module
from headsearch.model.families.base import NO_LIMITS, STOCK_FORWARD
from headsearch.model.narrow import narrowed
from headsearch.task.batches import Batch
from headsearch.testing import capability_table, check_family, checks_for
from tests.tiny import BERT_LIKE
from tests.tiny_families import batches_for, case


class ErnieFamily:
    """BERT's layers in `ernie.encoder`, here as a third party would write them down."""

    name = "ERNIE"
    covers = ()
    note = "from outside"
    limits = STOCK_FORWARD

    def matches(self, model: nn.Module) -> bool:
        return hasattr(model, "ernie")

    def layers(self, model: nn.Module) -> Sequence[OutputProjection]:
        found = []
        for block in self._blocks(model):
            output, size = block.attention.output.dense, block.attention.self.attention_head_size
            found.append(OutputProjection(output, output.in_features // size, size))
        return found

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention = self._blocks(model)[layer].attention
        own = attention.self
        rows = head_rows(kept, own.attention_head_size)
        for projection in (own.query, own.key, own.value):
            take_outputs(projection, rows)
        take_inputs(attention.output.dense, rows)

    @staticmethod
    def _blocks(model: Any) -> Any:
        return model.ernie.encoder.layer


class GateNextDoor(ErnieFamily):
    """Gates what comes after attention instead."""

    def layers(self, model: nn.Module) -> Sequence[OutputProjection]:
        return [OutputProjection(block.output.dense, 4, 10) for block in self._blocks(model)]


class GateOfNothing(ErnieFamily):
    """Gates a module that the forward never runs."""

    def layers(self, model: nn.Module) -> Sequence[OutputProjection]:
        return [OutputProjection(copy.deepcopy(x.output), 4, 6) for x in super().layers(model)]


class WrongRows(ErnieFamily):
    """Cuts one head more to the right out of the output than out of the rest."""

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        attention = self._blocks(model)[layer].attention
        heads = attention.output.dense.in_features // 6
        shifted = tuple(sorted((head + 1) % heads for head in kept))
        for projection in (attention.self.query, attention.self.key, attention.self.value):
            take_outputs(projection, head_rows(kept, 6))
        take_inputs(attention.output.dense, head_rows(shifted, 6))


class CannotCut(ErnieFamily):
    """Knows where heads are, not how to cut them out."""

    limits = MappingProxyType({**STOCK_FORWARD, "narrow": "nobody has written it yet"})

    def narrow(self, model: nn.Module, layer: int, kept: tuple[int, ...]) -> None:
        raise AssertionError("must not be asked")


@pytest.fixture(autouse=True)
def _forget_own_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_registered", [])


@pytest.fixture(name="subject", scope="module")
def _subject() -> tuple[nn.Module, Sequence[Batch]]:
    torch.manual_seed(0)
    model = transformers.ErnieForSequenceClassification(transformers.ErnieConfig(**BERT_LIKE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    return model.eval(), batches_for(model)


Subject = tuple[nn.Module, Sequence[Batch]]


def test_it_is_unknown_until_it_is_registered(subject: Subject) -> None:
    with pytest.raises(ModelError, match="register_family"):
        family_of(subject[0])
    own = ErnieFamily()
    headsearch.register_family(own)
    assert family_of(subject[0]) is own
    assert known_families() == (own, *FAMILIES)


def test_it_passes_the_suite_and_leaves_the_model_as_it_was(subject: Subject) -> None:
    headsearch.register_family(ErnieFamily())
    before = copy.deepcopy(subject[0].state_dict())
    assert len(checks_for(*subject)) == 13
    check_family(*subject)
    for name, tensor in subject[0].state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (GateNextDoor(), "ERNIE: narrow equals gate: "),
        (GateOfNothing(), r"ERNIE: every head has an effect: head \(0, 0\) has no effect"),
        (WrongRows(), "ERNIE: narrow equals gate: every third head: differs by"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_is_wrong_is_found(family: Any, message: str, subject: Subject) -> None:
    headsearch.register_family(family)
    with pytest.raises(AssertionError, match=message):
        check_family(*subject)


def test_what_it_cannot_do_is_refused_with_its_reason(subject: Subject) -> None:
    headsearch.register_family(CannotCut())
    with pytest.raises(
        ModelError,
        match="ERNIE models can't be cut out: nobody has written it yet; they can be gated",
    ):
        narrowed(subject[0], HeadSet.of([0]))
    assert {str(check) for check in checks_for(*subject)} >= {"cutting is refused"}
    check_family(*subject)
    row = capability_table([family_of(subject[0])]).splitlines()[-1]
    assert row == "| ERNIE | yes | no | yes | no | no | from outside |"


def test_a_family_is_registered_once_and_whole() -> None:
    headsearch.register_family(ErnieFamily())
    with pytest.raises(InputError, match="'ERNIE' is known already"):
        headsearch.register_family(ErnieFamily())
    half: Any = SimpleNamespace(name="half", covers=(), note="", limits={}, layers=None)
    with pytest.raises(InputError, match=r"but lacks matches, narrow$"):
        headsearch.register_family(half)


def test_limits_are_of_what_a_family_may_lack() -> None:
    class Gateless(ErnieFamily):
        limits = MappingProxyType({"gate": "no time"})

    with pytest.raises(InputError, match=r"alone but are of \['gate'\]"):
        headsearch.register_family(Gateless())


def test_a_family_with_the_fast_path_must_have_what_it_needs(subject: Subject) -> None:
    class Hasty(ErnieFamily):
        limits = NO_LIMITS

    headsearch.register_family(Hasty())
    with pytest.raises(InputError, match="'ERNIE' lacks `embed`, `position_bias` or `classify`"):
        fast_family_of(subject[0])


def test_a_worker_imports_the_module_of_the_family(subject: Subject) -> None:
    headsearch.register_family(ErnieFamily())
    parts = bundle(subject[0])
    assert parts.family == __name__
    rebuild(parts)
    with pytest.raises(ModelError, match="could not import"):
        rebuild(dataclasses.replace(parts, family="no.such.module"))
    assert bundle(case("GPT-2")[0]).family is None


def test_the_table_has_a_row_for_every_family() -> None:
    lines = capability_table().splitlines()
    assert lines[0] == "| family | search | fast path | gate | narrow | save/load | note |"
    assert len(lines) == 2 + len(FAMILIES)
    assert "| BERT | yes | yes | yes | yes | yes |  |" in lines
    assert "| RoBERTa, XLM-R, CamemBERT | yes | yes | yes | yes | yes |  |" in lines
    assert "| GPT-2 | yes | no | yes | yes | yes |  |" in lines
