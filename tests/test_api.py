"""The Python calls of the contract."""

from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import json
import pydoc
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import headsearch
from headsearch import api
from headsearch.engine.worker import make_evaluator
from headsearch.errors import DataError, InputError, ModelError, UnknownFamilyError
from headsearch.heads import HeadMap, HeadSet
from headsearch.model.as_it_is import as_it_is
from headsearch.model.families import head_map
from headsearch.model.parameters import parameters
from headsearch.model.plain import plain_outputs
from headsearch.run.verify import plain_score
from headsearch.task.data import examples_from_rows
from headsearch.task.metric import Score
from tests.tiny import tiny_data, tiny_model
from tests.tiny_families import case
from tests.words import texts_and_labels, tiny_tokenizer, trained_model

TOKENIZER = tiny_tokenizer()
MODEL = trained_model()
TEXTS, LABELS = texts_and_labels(120, seed=5)
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def accuracy(model: Any) -> int:
    """Right answers, one text at a time, by nothing but transformers."""
    correct = 0
    for text, label in zip(TEXTS, LABELS, strict=True):
        logits = model(**TOKENIZER(text, return_tensors="pt")).logits
        correct += model.config.id2label[int(logits.argmax())] == label
    return correct


@pytest.fixture(scope="module")
def result() -> headsearch.SearchResult:
    return headsearch.search(MODEL, TOKENIZER, ROWS, max_drop=0.05, max_evaluations=80)


def test_search_then_prune_holds_the_budget(result: headsearch.SearchResult) -> None:
    assert result.best.heads_removed >= 1
    pruned = headsearch.prune(MODEL, result.best.removed)
    before, after = accuracy(MODEL), accuracy(pruned)
    assert before == result.details["baseline"]["correct"]
    assert after == result.best.correct
    assert after >= before - 6  # 5 % of 120
    sizes = sum(p.numel() for p in pruned.parameters())
    # Query, key, value: 6 x 24 weights and 6 biases a head; output: 24 x 6 weights.
    a_head = 3 * (6 * 24 + 6) + 24 * 6
    whole = sum(p.numel() for p in MODEL.parameters())
    assert whole - sizes == result.best.heads_removed * a_head


def test_result_says_all_and_prints(result: headsearch.SearchResult) -> None:
    heads = [point.heads_removed for point in result.operating_points]
    assert heads == sorted(set(heads), reverse=True)
    assert f"Removed {result.best.heads_removed} of 12 heads" in str(result)
    assert HeadMap.from_mask(result.mask)[0] == HeadMap((4, 4, 4))


def test_a_memo_file_is_reused(tmp_path: Path, result: headsearch.SearchResult) -> None:
    memo = tmp_path / "memo.sqlite"
    options = {"max_drop": 0.05, "max_evaluations": 80, "memo": memo}
    first = headsearch.search(MODEL, TOKENIZER, ROWS, **options)
    again = headsearch.search(MODEL, TOKENIZER, ROWS, **options)
    assert first.best == again.best == result.best
    assert first.operating_points == again.operating_points


def test_prune_takes_pairs_masks_and_sets() -> None:
    model = tiny_model("BERT")
    data = tiny_data(model)
    removed = HeadSet.of([1, 6])
    mask = HeadMap((4, 4, 4)).to_mask(removed)
    for given in ([(0, 1), (1, 2)], np.array([[0, 1], [1, 2]]), mask, removed):
        found = plain_outputs(headsearch.prune(model, given), data.batches, HeadSet())
        expected = plain_outputs(model, data.batches, removed)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["GPT-2", "ALBERT"])
def test_families_without_the_fast_path_are_searched_too(name: str) -> None:
    model, _ = case(name)
    rows = [{"text": row["text"], "label": int(row["label"] == "pos")} for row in ROWS[:40]]
    found = headsearch.search(model, TOKENIZER, rows, max_drop=0.2, max_evaluations=20)
    assert found.best.heads_removed >= 1
    pruned, correct = headsearch.prune(model, found.best.removed), 0
    for row in rows:
        logits = pruned(**TOKENIZER(row["text"], return_tensors="pt")).logits
        correct += int(logits.argmax()) == row["label"]
    assert correct == found.best.correct


def test_the_model_is_not_changed(result: headsearch.SearchResult) -> None:
    assert not hasattr(MODEL.config, "headsearch")
    assert all(parameter.requires_grad for parameter in MODEL.parameters())


@pytest.mark.parametrize("family", ["BERT", "RoBERTa", "ELECTRA", "DistilBERT", "MPNet"])
def test_save_and_load_round_trip_and_prune_more(family: str, tmp_path: Path) -> None:
    model = tiny_model(family)
    data = tiny_data(model)
    pruned = headsearch.prune(model, [(0, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3)])
    headsearch.save_pruned(pruned, tmp_path / "small")
    loaded = headsearch.load_pruned(tmp_path / "small")
    np.testing.assert_array_equal(
        plain_outputs(loaded, data.batches, HeadSet()),
        plain_outputs(pruned, data.batches, HeadSet()),
    )
    again = headsearch.prune(loaded, [(0, 0)])  # head 1 of the whole model
    headsearch.save_pruned(again, tmp_path / "smaller")
    found = plain_outputs(headsearch.load_pruned(tmp_path / "smaller"), data.batches, HeadSet())
    expected = plain_outputs(model, data.batches, HeadSet.of([0, 1, 5, 8, 9, 10, 11]))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_pruned_model_can_be_searched_again(result: headsearch.SearchResult) -> None:
    pruned = headsearch.prune(MODEL, result.best.removed)
    again = headsearch.search(pruned, TOKENIZER, ROWS, max_drop=0.05, max_evaluations=20)
    assert again.details["heads"] == 12 - result.best.heads_removed
    assert again.details["baseline"]["correct"] == result.best.correct


def test_held_out_rows_certify(result: headsearch.SearchResult) -> None:
    held = dict(zip(*texts_and_labels(1000, seed=6), strict=True))
    rows = [{"text": t, "label": name} for t, name in held.items() if t not in TEXTS]
    found = headsearch.search(
        MODEL, TOKENIZER, ROWS, max_drop=0.05, max_evaluations=80, certify_dataset=rows
    )
    assert (found.best, found.mask) == (result.best, result.mask)
    claim = found.details["certificate"]["population"]
    assert claim["examples"] == len(rows)
    assert found.certified_mask is not None
    shape, removed = HeadMap.from_mask(found.certified_mask)
    assert shape.pairs(removed) == claim["certified"]["removed"]
    assert "With 95 % confidence" in str(found)
    assert result.certified_mask is None
    headsearch.prune(MODEL, found.certified_mask)


def test_a_fraction_of_the_rows_certifies() -> None:
    found = headsearch.search(
        MODEL, TOKENIZER, ROWS, max_evaluations=5, certify_fraction=0.25, confidence=0.9
    )
    claim = found.details["certificate"]["population"]
    assert (found.details["examples"], claim["examples"], claim["alpha"]) == (90, 30, 0.1)


def test_options_may_be_numpys_numbers() -> None:
    plain = {"max_drop": 0.05, "max_evaluations": 5, "certify_fraction": 0.25, "confidence": 0.9}
    numbers = {name: np.float32(value) for name, value in plain.items()}
    numbers["max_evaluations"] = np.int64(5)
    wanted, found = (
        headsearch.search(MODEL, TOKENIZER, ROWS, **options).details for options in (plain, numbers)
    )
    assert json.loads(json.dumps(found)) == found
    for name in ("best", "max_drop", "threshold", "certificate"):
        assert found[name] == wanted[name]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_drop": 2}, InputError, r"`max_drop` must be in \[0, 1\) but got 2"),
        ({"metrik": "f1"}, InputError, "unknown option 'metrik'"),
        ({"engine": "spark"}, InputError, "`engine` must be one of auto, inline, ray"),
        ({"text_column": "body"}, DataError, "column 'body' not found"),
        ({"data": "a.csv"}, InputError, "`data` names a file; pass rows as `dataset`"),
        ({"certify_data": "a.csv"}, InputError, "names a file; pass rows as `certify_dataset`"),
        ({"certify_dataset": ROWS}, DataError, "but 120 of their 120 examples are in the search"),
        ({"certify_dataset": []}, DataError, "certify data: the data must have at least one"),
        ({"certify_dataset": ROWS, "certify_fraction": 0.5}, InputError, "exclude each other"),
        ({"certify_dataset": ROWS, "metric": "f1"}, InputError, "`metric` must be accuracy for a"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        headsearch.search(MODEL, TOKENIZER, ROWS, **options)


@pytest.mark.parametrize("given", ["a model", None, type(MODEL)])
def test_what_is_no_model_is_refused(given: Any) -> None:
    for call in (
        lambda: headsearch.search(given, TOKENIZER, ROWS),
        lambda: headsearch.prune(given, [(0, 0)]),
    ):
        with pytest.raises(InputError, match="`model` must be a torch module but got"):
            call()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own code
def test_a_compiled_model_is_to_be_given_as_it_was_before() -> None:
    compiled: Any = torch.compile(MODEL)
    with pytest.raises(ModelError, match=r"before `torch.compile`: that is `model._orig_mod`"):
        headsearch.search(compiled, TOKENIZER, ROWS)
    assert compiled._orig_mod is MODEL
    # Pruning needs no class to make it again.
    pruned = headsearch.prune(compiled, [(0, 0)])
    assert sum(p.numel() for p in pruned.parameters()) == sum(
        p.numel() for p in headsearch.prune(MODEL, [(0, 0)]).parameters()
    )


@pytest.mark.parametrize("given", [None, "a tokenizer"])
def test_what_is_no_tokenizer_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="`tokenizer` must be a tokenizer or image processor but"):
        headsearch.search(MODEL, given, ROWS)


# In a process that has torch and transformers, and forgets headsearch before each case.
IMPORTED_BEFORE = """
import sys, torch, transformers
for first in sys.argv[1:]:
    for name in [n for n in sys.modules if n.split(".")[0] == "headsearch"]:
        del sys.modules[name]
    import headsearch
    exec(first)
    try:
        headsearch.search(None, None, [], max_drop=7)
    except headsearch.errors.InputError as error:
        print(error)
"""


def test_search_is_a_call_whatever_was_imported_before() -> None:
    firsts = ["import headsearch.search.astar", "from headsearch.search import astar", "pass"]
    command = [sys.executable, "-c", IMPORTED_BEFORE, *firsts]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert said == ["`max_drop` must be in [0, 1) but got 7"] * len(firsts)


def test_help_is_of_the_call() -> None:
    assert inspect.signature(headsearch.search) == inspect.signature(api.search)
    assert inspect.getdoc(headsearch.search) == inspect.getdoc(api.search)
    shown = pydoc.plain(pydoc.render_doc(headsearch.search))
    assert "Remove as many attention heads as possible" in shown
    assert "certify_dataset: held-out rows" in shown


def test_parts_that_are_named_need_no_import_of_their_own() -> None:
    code = (
        "import sys, headsearch; print(headsearch.errors.HeadsearchError.exit_code, "
        "headsearch.callbacks.Callback.__name__, 'torch' in sys.modules, "
        "headsearch.testing.check_family.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "Callback", "False", "check_family"]


def test_bad_heads_and_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"layer must be in 0..2 but got 3"):
        headsearch.prune(MODEL, [(3, 0)])
    with pytest.raises(InputError, match=r"head of layer 0 must be in 0..3 but got 4"):
        headsearch.prune(MODEL, [(0, 4)])
    with pytest.raises(InputError, match="the mask is for heads"):
        headsearch.prune(MODEL, HeadMap((4, 4)).to_mask(HeadSet()))
    import torch

    with pytest.raises(UnknownFamilyError, match="BERT, RoBERTa"):
        headsearch.prune(torch.nn.Linear(2, 2), [(0, 0)])


def test_a_budget_given_later_picks_from_the_operating_points(
    result: headsearch.SearchResult,
) -> None:
    assert result.within(0.05).heads_removed >= result.best.heads_removed
    before = result.details["baseline"]["correct"]
    found = []
    for max_drop, allowed in ((0.0, 0), (0.02, 2), (0.03, 3), (0.1, 12)):  # of 120 examples
        point = result.within(max_drop)
        assert point.correct is not None
        assert point.correct >= before - allowed
        better = [
            other
            for other in result.operating_points
            if other.correct is not None and other.correct >= before - allowed
        ]
        assert point.heads_removed == max(other.heads_removed for other in better)
        assert accuracy(headsearch.prune(MODEL, point.removed)) == point.correct
        found.append(point.heads_removed)
    assert found == sorted(found)
    with pytest.raises(InputError, match="`max_drop` must be in"):
        result.within(1.0)
    wrong: Any
    for wrong in ("0.1", None, True):
        with pytest.raises(InputError, match="`max_drop` must be a number but got"):
            result.within(wrong)


def test_the_full_model_meets_a_budget_given_later_that_no_score_of_the_search_does(
    result: headsearch.SearchResult,
) -> None:
    details = copy.deepcopy(result.details)
    plain, most = details["certificate"]["plain"]["baseline"], result.operating_points[-1].correct
    assert most is not None
    plain |= {"correct": most + 1, "metric": (most + 1) / 120}  # as rounding may have it
    point = dataclasses.replace(result, details=details).within(0.0)
    assert (point.removed, point.heads_removed, point.saved) == ((), 0, 0)
    baseline = {name: getattr(point, name) for name in ("metric", "loss", "correct")}
    assert baseline == details["baseline"]


def test_parameters_may_be_what_is_saved() -> None:
    found = headsearch.search(
        MODEL, TOKENIZER, ROWS, max_drop=0.05, max_evaluations=40, weight="parameters"
    )
    pruned = headsearch.prune(MODEL, found.best.removed)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (MODEL, pruned)]
    assert found.best.saved == sizes[0] - sizes[1] > 0


QUICK: dict[str, Any] = {"max_drop": 0.05, "max_evaluations": 12}


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_in_training_stays_in_training(fails: bool) -> None:
    model = copy.deepcopy(MODEL).train()
    model.classifier.eval()
    before = [module.training for module in model.modules()]
    if fails:
        with pytest.raises(DataError):
            headsearch.search(model, TOKENIZER, [], **QUICK)
    else:
        headsearch.search(model, TOKENIZER, ROWS, **QUICK)
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2


def test_the_last_word_on_a_half_precision_model_is_float32s() -> None:
    half = copy.deepcopy(MODEL).to(torch.bfloat16)
    found = headsearch.search(half, TOKENIZER, ROWS, **QUICK).details
    same = headsearch.search(copy.deepcopy(half).float(), TOKENIZER, ROWS, **QUICK).details
    assert found["certificate"]["plain"] == same["certificate"]["plain"]
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    whole = headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK).details
    assert found["certificate"]["plain"] != whole["certificate"]["plain"]


def test_reduced_precision_around_a_search_is_off_within() -> None:
    outside = headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK).details
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            within = headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK).details
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    for name in ("best", "baseline", "certificate"):
        assert within[name] == outside[name]


def test_searches_of_one_model_in_several_threads_wait_for_each_other() -> None:
    model = copy.deepcopy(MODEL).train()
    model.bert.encoder.eval()
    before = [module.training for module in model.modules()]
    alone = headsearch.search(model, TOKENIZER, ROWS, **QUICK)

    def found(number: int) -> headsearch.SearchResult:
        return headsearch.search(model, TOKENIZER, ROWS, **QUICK)

    with ThreadPoolExecutor(4) as threads:
        for result in threads.map(found, range(8)):
            assert result.best == alone.best
            for name in ("baseline", "certificate"):
                assert result.details[name] == alone.details[name]
    assert [module.training for module in model.modules()] == before


def test_a_model_that_was_compiled_in_place_is_checked_as_it_was_written() -> None:
    model = copy.deepcopy(MODEL)
    model.compile(backend="eager")
    with torch.inference_mode():  # it keeps no guard on gates that come later
        for first, stop in ((0, 40), (0, 11), (0, 8), (8, 16), (16, 24)):  # then of any size
            model(**TOKENIZER(TEXTS[first:stop], padding=True, return_tensors="pt"))
    found = headsearch.search(model, TOKENIZER, ROWS[:40], **QUICK)
    same = headsearch.search(MODEL, TOKENIZER, ROWS[:40], **QUICK)
    assert found.best == same.best
    assert found.details["certificate"] == same.details["certificate"]


def test_a_forward_that_a_trainer_has_put_in_place_has_no_say_in_the_check() -> None:
    model = copy.deepcopy(MODEL)
    inner = model.forward

    def forward(**inputs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return inner(**inputs)

    model.forward = forward
    found = headsearch.search(model, TOKENIZER, ROWS, **QUICK).details
    same = headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK).details
    assert found["certificate"] == same["certificate"]
    assert model.forward is forward


@pytest.mark.parametrize("way", ["hook", "replaced"])
def test_a_model_that_is_not_what_its_class_says_is_refused(way: str) -> None:
    model = copy.deepcopy(MODEL)
    if way == "hook":
        model.classifier.register_forward_hook(lambda module, args, logits: logits.flip(-1))
    else:
        model.bert.pooler.activation = torch.nn.ReLU()
    with pytest.raises(ModelError, match="must be those of its class, BertForSequenceClassificat"):
        headsearch.search(model, TOKENIZER, ROWS, **QUICK)


def test_a_hook_that_changes_nothing_is_no_reason_to_refuse_a_model() -> None:
    model, seen = copy.deepcopy(MODEL), list[str]()
    model.classifier.register_forward_hook(lambda module, args, logits: seen.append("here"))
    found = headsearch.search(model, TOKENIZER, ROWS, **QUICK)
    assert found.best == headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK).best
    assert seen


def test_a_callback_may_search_the_same_model() -> None:
    found = list[headsearch.SearchResult]()

    class Again:
        def on_end(self, result: headsearch.SearchResult) -> None:
            found.append(headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK))

    result = headsearch.search(MODEL, TOKENIZER, ROWS, callbacks=[Again()], **QUICK)
    assert [each.best for each in found] == [result.best]


def test_the_last_of_several_searches_gives_precision_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with ExitStack() as last:
            with as_it_is(MODEL):
                last.enter_context(as_it_is(tiny_model("BERT")))
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_what_the_plain_forward_refutes_is_no_point_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_found = headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK)
    assert as_found.within(0.05) == as_found.best
    low = Score(99 / 120, 1.0, 99)

    def refuting(model: Any, data: Any, objective: Any, removed: HeadSet, *more: Any) -> Score:
        refuted = removed == head_map(model).from_pairs(as_found.best.removed)
        return low if refuted else plain_score(model, data, objective, removed, *more)

    monkeypatch.setattr("headsearch.run.session.plain_score", refuting)
    found = headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK)
    assert found.best != as_found.best
    assert found.details["certificate"]["verified"]
    assert found.within(0.05).saved == found.best.saved
    removed = [point.removed for point in found.safer_points]
    assert as_found.best.removed not in removed
    assert found.best.removed in removed
    (point,) = [p for p in found.operating_points if p.removed == as_found.best.removed]
    assert (point.metric, point.correct) == (low.metric, 99)


@pytest.mark.parametrize(("name", "exact"), [("Llama", False), ("Llama, no groups", True)])
def test_where_heads_share_keys_no_claim_is_made_of_the_parameters_saved(
    name: str, exact: bool
) -> None:
    model, _ = case(name)
    rows = [{**row, "label": int(row["label"] == "pos")} for row in ROWS]
    found = headsearch.search(
        model, TOKENIZER, rows, max_drop=0.2, weight="parameters", max_evaluations=4
    )
    weight = found.details["weight"]
    assert weight["exact"] is exact
    whole, narrow = parameters(model), parameters(headsearch.prune(model, found.best.removed))
    assert (whole - narrow == weight["saved"]) or not exact
    assert whole - narrow >= weight["saved"]
    assert "That saves at least" in str(found) or exact


def test_a_search_holds_no_memory_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def noted(*args: Any, **options: Any) -> Any:
        evaluator = make_evaluator(*args, **options)
        made.append(weakref.ref(evaluator))
        return evaluator

    monkeypatch.setattr("headsearch.engine.inline.make_evaluator", noted)
    gc.disable()
    try:
        headsearch.search(MODEL, TOKENIZER, ROWS, **QUICK)
        assert [reference() for reference in made] == [None]
    finally:
        gc.enable()


def test_threads_are_as_before_where_workers_do_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise ModelError("no")

    monkeypatch.setattr("headsearch.engine.inline.make_evaluator", fails)
    before = torch.get_num_threads()
    with pytest.raises(ModelError):
        headsearch.search(MODEL, TOKENIZER, ROWS, threads_per_worker=before + 2, **QUICK)
    assert torch.get_num_threads() == before


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return ROWS[place]


IDS = [int(label == "pos") for label in LABELS]
RAW = datasets.Dataset.from_dict({"raw": TEXTS, "label": LABELS})


@pytest.mark.parametrize(
    "rows",
    [
        Rows(),
        [{"text": t, "label": torch.tensor(i)} for t, i in zip(TEXTS, IDS, strict=True)],
        list(datasets.Dataset.from_dict({"text": TEXTS, "label": IDS}).with_format("torch")),
        datasets.IterableDataset.from_generator(lambda: iter(ROWS)),
        RAW.with_transform(lambda batch: {"text": batch["raw"], "label": batch["label"]}),
    ],
    ids=["torch", "tensors", "formatted", "iterable", "transformed"],
)
def test_rows_may_come_in_any_way(rows: Any) -> None:
    found = examples_from_rows(rows, id2label={0: "neg", 1: "pos"}, classes=2)
    assert found.texts == TEXTS
    assert found.labels.tolist() == IDS


def test_a_transform_of_a_data_set_is_followed() -> None:
    turned = datasets.Dataset.from_list(ROWS).with_transform(
        lambda batch: {"text": [text.upper() for text in batch["text"]], "label": batch["label"]}
    )
    found = examples_from_rows(turned, id2label={0: "neg", 1: "pos"}, classes=2)
    assert found.texts == [text.upper() for text in TEXTS]
