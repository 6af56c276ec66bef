"""Searches on what is no single label of a text: tokens, several labels, language models."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

import headsearch
from headsearch.engine.inline import InlineWorkers
from headsearch.errors import DataError, InputError, ModelError
from headsearch.heads import HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.memo.store import Block
from headsearch.model.gate import gates, removal_gates
from headsearch.model.plain import plain_outputs
from headsearch.report.plan_text import plan_lines
from headsearch.run import command, plan, prepare
from headsearch.run.config import RunConfig
from headsearch.run.engines import choose
from headsearch.run.findings import gather
from headsearch.run.prepare import Task, make_task
from headsearch.scoring.stock import evaluator_for
from headsearch.task.batches import Span
from headsearch.task.data import examples_from_rows
from tests.tiny import BERT_LIKE
from tests.tiny_families import GPT2, MODERNBERT
from tests.words import texts_and_labels, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
COUNT, DROP = 40, 0.2
TEXTS = texts_and_labels(COUNT, seed=9)[0]
NAMES = {0: "O", 1: "A", 2: "B"}
RANDOM = np.random.default_rng(0)
Row = dict[str, Any]


def tiny(name: str, settings: dict[str, Any], **more: Any) -> Any:
    """A random model whose attention matters."""
    torch.manual_seed(0)
    stem = name.split("For")[0].removesuffix("LMHeadModel")
    config = getattr(transformers, f"{stem}Config")(**{**settings, **more})
    model = getattr(transformers, name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


LABELLED = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}}
TAGGER = tiny("BertForTokenClassification", BERT_LIKE, **LABELLED)
SEVERAL = tiny(
    "BertForSequenceClassification",
    BERT_LIKE,
    problem_type="multi_label_classification",
    **LABELLED,
)
WRITER = tiny("GPT2LMHeadModel", GPT2)


def noisy(values: np.ndarray, classes: int) -> np.ndarray:
    """Every sixth answer of a model is wrong."""
    wrong = RANDOM.random(values.shape) < 1 / 6
    return np.where(wrong, (values + 1) % classes, values)


@torch.inference_mode()
def tags(model: Any, words: Sequence[str]) -> np.ndarray:
    """Of a text by nothing but transformers; here each word is one token between two others."""
    inputs = TOKENIZER(list(words), is_split_into_words=True, return_tensors="pt")
    return np.asarray(model(**inputs).logits[0, 1:-1].argmax(dim=-1))


@torch.inference_mode()
def flags(model: Any, text: str) -> np.ndarray:
    logits = model(**TOKENIZER(text, return_tensors="pt")).logits[0]
    return np.asarray((logits > 0).long())


@torch.inference_mode()
def perplexity(model: Any) -> float:
    total, count = 0.0, 0
    for text in TEXTS:
        inputs = TOKENIZER(text, return_tensors="pt")
        ids, logits = inputs["input_ids"], model(**inputs).logits[0, :-1]
        total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        count += ids.shape[1] - 1
    return math.exp(total / count)


WORDS = [text.split() for text in TEXTS]
TAGGED: list[Row] = [
    {"text": words, "label": [NAMES[i] for i in noisy(tags(TAGGER, words), 3)]} for words in WORDS
]
FLAGGED: list[Row] = [
    {"text": text, "label": noisy(flags(SEVERAL, text), 2).tolist()} for text in TEXTS
]
WRITTEN: list[Row] = [{"text": text} for text in TEXTS]
CASES = {
    "tokens": (TAGGER, TAGGED, "accuracy"),
    "labels": (SEVERAL, FLAGGED, "f1"),
    "sequences": (WRITER, WRITTEN, "perplexity"),
}


def right_tags(model: Any) -> int:
    return sum(
        int(NAMES[answer] == label)
        for row in TAGGED
        for answer, label in zip(tags(model, row["text"]), row["label"], strict=True)
    )


def micro_f1(model: Any) -> float:
    answers = np.array([flags(model, row["text"]) for row in FLAGGED])
    labels = np.array([row["label"] for row in FLAGGED])
    both = int((answers & labels).sum())
    return 2 * both / int(answers.sum() + labels.sum())


@pytest.fixture(scope="module", params=sorted(CASES), name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def found(kind: str, **options: Any) -> headsearch.SearchResult:
    model, rows, metric = CASES[kind]
    options = {"max_drop": DROP, "max_evaluations": 30, **options}
    return headsearch.search(model, TOKENIZER, rows, metric=metric, **options)


def task_of(kind: str) -> Task:
    model, rows, metric = CASES[kind]
    examples = examples_from_rows(rows, id2label=NAMES, classes=3, kind=kind)
    config = RunConfig(model="model", data="data", metric=metric, engine="inline")
    # An evaluator makes its model its own.
    return make_task(copy.deepcopy(model), TOKENIZER, examples, config)


def test_tokens_are_scored_as_a_plain_loop_scores_them() -> None:
    result = found("tokens")
    assert result.details["baseline"]["correct"] == right_tags(TAGGER)
    assert result.details["scored"] == {"kind": "tokens", "rows": sum(map(len, WORDS))}
    assert result.details["examples"] == COUNT
    assert result.best.heads_removed >= 1
    pruned = headsearch.prune(TAGGER, result.best.removed)
    assert right_tags(pruned) == result.best.correct
    assert right_tags(pruned) >= right_tags(TAGGER) - DROP * sum(map(len, WORDS))
    assert result.details["gradient_passes"] == 0, "single removals cost less"


def test_several_labels_are_scored_as_a_plain_loop_scores_them() -> None:
    result = found("labels")
    assert result.details["baseline"]["metric"] == pytest.approx(micro_f1(SEVERAL), abs=1e-12)
    assert result.details["scored"] == {"kind": "labels", "rows": 3 * COUNT}
    assert result.best.heads_removed >= 1
    pruned = headsearch.prune(SEVERAL, result.best.removed)
    assert micro_f1(pruned) == pytest.approx(result.best.metric, abs=1e-12)
    assert micro_f1(pruned) >= micro_f1(SEVERAL) - DROP


def test_language_models_are_scored_as_a_plain_loop_scores_them() -> None:
    result = found("sequences")
    whole = perplexity(WRITER)
    assert -result.details["baseline"]["metric"] == pytest.approx(whole, rel=1e-5)
    assert result.best.heads_removed >= 1
    pruned = headsearch.prune(WRITER, result.best.removed)
    assert perplexity(pruned) == pytest.approx(-result.best.metric, rel=1e-5)
    assert perplexity(pruned) <= (1 + DROP) * whole * (1 + 1e-5)
    assert f"perplexity on the {COUNT} search examples: {whole:.2f}" in str(result)


def test_the_evaluator_gives_the_rows_of_the_plain_path(kind: str) -> None:
    task = task_of(kind)
    evaluator = evaluator_for(task.model, task.data.batches)
    every = Span(0, len(task.data.batches))
    states = [HeadSet(), HeadSet.of([0, 5]), HeadSet.of(range(4)), task.shape.full]
    rows = evaluator.outputs(HeadSet(), states, every)
    for state, row in zip(states, rows, strict=True):
        expected = plain_outputs(task.model, task.data.batches, state)
        assert row.shape == (len(task.data.labels), {"labels": 2, "sequences": 1}.get(kind, 3))
        np.testing.assert_allclose(row, expected, atol=2e-5 * max(1.0, np.abs(expected).max()))
    assert np.abs(rows[1] - rows[0]).max() > 1e-3, "removing heads has an effect"


def test_gradients_are_those_of_each_row(kind: str) -> None:
    task = task_of(kind)
    task.model.double()
    evaluator = evaluator_for(task.model, task.data.batches[:1])
    state, step = HeadSet.of([1, 6]), 1e-3
    slopes = evaluator.gradients(state, Span(0, 1))
    for head in (0, 7, 1):
        outputs = []
        for sign in (1, -1):
            values = [gate.clone() for gate in removal_gates(task.model, state)]
            values[head // 4][head % 4] += sign * step
            with gates(task.model, values):
                outputs.append(plain_outputs(task.model, task.data.batches[:1], HeadSet()))
        expected = (outputs[0] - outputs[1]) / (2 * step)
        if expected.shape[1] > 1:
            expected -= expected.mean(axis=1, keepdims=True)
        if head in state:
            expected[:] = 0.0
        np.testing.assert_allclose(slopes[:, :, head], expected, atol=2e-2)


def test_shards_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "tokenise", partial(prepare.tokenise, batch_examples=9))
    one, three = (found(kind, shards=shards) for shards in (1, 3))
    assert one.best == three.best
    assert one.operating_points == three.operating_points


class Quiet:
    def on_progress(self, values: dict[str, Any]) -> None: ...


def test_a_file_of_tagged_words_is_searched_from_the_command_line(tmp_path: Path) -> None:
    TAGGER.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    data = tmp_path / "words.jsonl"
    rows = [{"tokens": row["text"], "tags": row["label"]} for row in TAGGED]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig(
        model=str(tmp_path / "model"),
        data=str(data),
        text_column="tokens",
        label_column="tags",
        engine="inline",
        max_drop=DROP,
        max_evaluations=14,
    )

    outcome = command.start(config, tmp_path / "run", Quiet())
    assert outcome.result["baseline"]["correct"] == right_tags(TAGGER)
    scores = command.verify(tmp_path / "run")
    assert scores["verified"]
    assert scores["baseline"]["correct"] == right_tags(TAGGER)


def saved(kind: str, folder: Path, **options: Any) -> RunConfig:
    """What a run of the same model on the same rows is asked, both of them files."""
    model, rows, metric = CASES[kind]
    model.save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"engine": "inline", "max_drop": DROP, **options}
    return RunConfig(model=str(folder / "model"), data=str(data), metric=metric, **options)


def test_a_report_does_not_compare_what_is_no_example(kind: str, tmp_path: Path) -> None:
    config = saved(kind, tmp_path, max_evaluations=4)
    command.start(config, tmp_path / "run", Quiet())
    found = gather(tmp_path / "run")
    assert found["result"]["scored"]["kind"] == kind
    expected = f"answers are compared where each example has one class, not where {kind} are scored"
    assert found["changes"] == {"missing": expected}
    for style in ("html", "md"):
        assert expected in headsearch.write_report(tmp_path / "run", style=style).read_text()


def test_texts_that_are_cut_lose_the_labels_of_what_is_cut_off() -> None:
    examples = examples_from_rows(TAGGED, id2label=NAMES, classes=3, kind="tokens")
    config = RunConfig(model="model", data="data", engine="inline", max_length=6)
    data = make_task(TAGGER, TOKENIZER, examples, config).data
    assert len(data.labels) == sum(min(len(words), 4) for words in WORDS)


def test_words_that_have_no_token_lose_their_labels_and_no_others() -> None:
    gaps = [
        {
            "text": ["", row["text"][0], " ", *row["text"][1:], ""],
            "label": [row["label"][0], row["label"][0], "B", *row["label"][1:], "O"],
        }
        for row in TAGGED
    ]
    config = RunConfig(model="model", data="data", engine="inline")
    with_gaps, without = (
        make_task(
            TAGGER,
            TOKENIZER,
            examples_from_rows(rows, id2label=NAMES, classes=3, kind="tokens"),
            config,
        ).data
        for rows in (gaps, TAGGED)
    )
    assert with_gaps.fingerprint() == without.fingerprint()
    assert len(np.unique(without.labels)) > 1


def test_texts_of_which_no_word_has_a_token_change_nothing() -> None:
    empty: list[Row] = [{"text": [" "], "label": ["B"]}] * 200  # several batches of them alone
    rows = [*empty[:150], *TAGGED, *empty[150:]]
    config = RunConfig(model="model", data="data", engine="inline")
    examples = examples_from_rows(rows, id2label=NAMES, classes=3, kind="tokens")
    with_them = make_task(TAGGER, TOKENIZER, examples, config).data
    assert with_them.examples == len(TAGGED)
    assert sorted(with_them.order) == list(range(150, 150 + len(TAGGED)))
    found = [
        headsearch.search(TAGGER, TOKENIZER, each, max_drop=DROP, max_evaluations=12)
        for each in (rows, TAGGED)
    ]
    for name in ("baseline", "best", "operating_points", "scored", "examples"):
        assert found[0].details[name] == found[1].details[name]
    assert found[0].best.heads_removed > 0


def test_a_plan_bills_no_gradients_of_tokens_and_has_room_for_all_rows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PROBE_SECONDS", 0.0)
    config = saved(kind, tmp_path, max_evaluations=9)
    found = plan.make_plan(config, tmp_path / "run")
    start = found["probe"]["gradient"]
    assert (start < 1e-3) == (kind == "tokens")
    outcome = command.start(config, tmp_path / "run", Quiet())
    assert (outcome.result["gradient_passes"] == 0) == (kind == "tokens")
    rows = outcome.result["scored"]["rows"]
    width = {"tokens": 3, "labels": 2, "sequences": 1}[kind]
    assert found["disk_bytes"] >= 4 * 9 * rows * width
    said = " ".join(plan_lines(found))
    change = "perplexity may rise by 0.2 of itself." if kind == "sequences" else " may fall by 0.2."
    assert change in said


def test_words_of_which_none_has_a_token_are_refused() -> None:
    rows = [{"text": [" ", ""], "label": ["O", "B"]}]
    examples = examples_from_rows(rows, id2label=NAMES, classes=3, kind="tokens")
    with pytest.raises(DataError, match="none of its words has a token"):
        make_task(TAGGER, TOKENIZER, examples, RunConfig(model="model", data="data"))


@pytest.mark.parametrize("kind", ["tokens", "labels"], indirect=True)
def test_what_is_no_independent_draw_is_not_certified(kind: str) -> None:
    with pytest.raises(InputError, match=f"a certificate needs independent draws but {kind}"):
        headsearch.search(CASES[kind][0], TOKENIZER, CASES[kind][1], certify_fraction=0.5)


@pytest.mark.parametrize("name", ["BertForMultipleChoice", "ModernBertForQuestionAnswering"])
def test_a_classifier_of_other_things_than_texts_is_refused(name: str) -> None:
    model = tiny(name, MODERNBERT if "Modern" in name else BERT_LIKE)
    with pytest.raises(ModelError, match=f"{name} has no classification head: "):
        headsearch.search(model, TOKENIZER, TAGGED)


def test_what_has_nothing_on_top_is_refused() -> None:
    model = tiny("BertForMaskedLM", BERT_LIKE)
    with pytest.raises(ModelError, match="BertForMaskedLM has no classification head"):
        headsearch.search(model, TOKENIZER, TAGGED)


def test_what_is_stored_in_one_is_limited_where_many_words_are_scored_for_many_states(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = list[int]()

    class Store(MemoryStore):
        def add(self, blocks: Sequence[Block]) -> None:
            sizes.extend(len(block.data) for block in blocks)
            super().add(blocks)

    monkeypatch.setattr(headsearch.api, "MemoryStore", Store)
    monkeypatch.setattr(prepare, "tokenise", partial(prepare.tokenise, batch_examples=2))
    whole = headsearch.search(TAGGER, TOKENIZER, TAGGED, max_drop=DROP, max_evaluations=30)
    most = 4000
    assert max(sizes) > 2 * most
    sizes.clear()
    monkeypatch.setattr("headsearch.task.shards.PIECE_BYTES", most)
    found = headsearch.search(TAGGER, TOKENIZER, TAGGED, max_drop=DROP, max_evaluations=30)
    assert max(sizes) <= most
    assert found.operating_points == whole.operating_points


def test_plans_are_of_rows() -> None:
    task = task_of("tokens")
    plan = choose(RunConfig(model="m", data="d", engine="inline"), task).plan
    assert plan.layout.rows == len(task.data.labels)
    assert not plan.layout.independent
    workers = InlineWorkers(task.bundle, task.data, plan)
    workers.close()
