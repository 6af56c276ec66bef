"""Batches hold every example once, shards whole batches, and nothing more padding than needed."""

from __future__ import annotations

import numpy as np
import pytest

from headsearch.errors import DataError, InputError
from headsearch.task.batches import Batch, BatchedData, Span, tokenise
from headsearch.task.data import Examples
from headsearch.task.shards import rounds
from tests.words import texts_and_labels, tiny_tokenizer


def examples(count: int = 50) -> Examples:
    texts, labels = texts_and_labels(count)
    return Examples(texts, None, np.array([label == "pos" for label in labels], dtype=np.int64))


def test_every_example_is_there_once_by_length_in_each_round_and_only_as_wide_as_needed() -> None:
    source, tokenizer = examples(), tiny_tokenizer()
    data = tokenise(source, tokenizer, batch_examples=8)
    assert sorted(data.order) == list(range(50))
    assert [batch.examples for batch in data.batches] == [8, 8, 8, 2, 8, 8, 8]
    np.testing.assert_array_equal(data.labels, source.labels[data.order])
    # By length the batches are 0 to 6: every second, then every second of the rest, and so on.
    assert [(span.first, span.stop) for span in rounds(7)] == [(0, 4), (4, 6), (6, 7)]
    lengths, row = [], 0
    for batch in data.batches:
        ids, mask = batch.arrays["input_ids"], batch.arrays["attention_mask"]
        assert mask.sum(axis=1).max() == batch.tokens
        for i in range(batch.examples):
            expected = tokenizer(source.texts[data.order[row]])["input_ids"]
            assert ids[i, : len(expected)].tolist() == expected
            assert (ids[i, len(expected) :] == 0).all()
            assert mask[i].tolist() == [1] * len(expected) + [0] * (batch.tokens - len(expected))
            lengths.append(len(expected))
            row += 1
    for start, stop in ((0, 26), (26, 42), (42, 50)):
        assert lengths[start:stop] == sorted(lengths[start:stop])
    padded = sum(batch.examples * batch.tokens for batch in data.batches)
    assert data.padding_waste == pytest.approx(1 - sum(lengths) / padded)


def test_equal_lengths_stay_in_source_order() -> None:
    data = tokenise(Examples(["good1 bad1"] * 9, None, np.arange(9)), tiny_tokenizer())
    assert data.order.tolist() == list(range(9))


def test_pairs_are_tokenised_together() -> None:
    pairs = Examples(["good1 good2"], ["bad1"], np.array([1]))
    tokenizer = tiny_tokenizer()
    data = tokenise(pairs, tokenizer)
    assert data.batches[0].arrays["input_ids"].tolist() == [
        tokenizer("good1 good2", "bad1")["input_ids"]
    ]
    assert data.batches[0].arrays["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


def test_padding_is_on_the_right_and_masked_whatever_the_tokenizer_would_do() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side, tokenizer.model_input_names = "left", ["input_ids"]
    data = tokenise(Examples(["good1 good2", ""], None, np.array([0, 1])), tokenizer)
    arrays = data.batches[0].arrays
    assert arrays["input_ids"].tolist() == [[2, 3, 0, 0], [2, 6, 7, 3]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_batches_are_bounded_by_tokens_too() -> None:
    data = tokenise(examples(), tiny_tokenizer(), batch_tokens=40)
    assert all(batch.examples * batch.tokens <= 40 for batch in data.batches)
    assert data.examples == 50


@pytest.mark.parametrize(
    ("options", "longest"),
    [({}, 32), ({"max_positions": 20}, 20), ({"max_length": 7, "max_positions": 20}, 7)],
)
def test_long_texts_are_cut(options: dict[str, int], longest: int) -> None:
    long = Examples(["good1 " * 100, "bad1"], None, np.array([1, 0]))
    assert tokenise(long, tiny_tokenizer(), **options).batches[-1].tokens == longest


def test_lengths_out_of_range() -> None:
    with pytest.raises(InputError, match="`max_length` must be at least 3 but got 2"):
        tokenise(examples(), tiny_tokenizer(), max_length=2)
    with pytest.raises(InputError, match="at most 20, the model's positions, but got 21"):
        tokenise(examples(), tiny_tokenizer(), max_length=21, max_positions=20)


def test_a_tokenizer_that_knows_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="100% of the tokens are unknown"):
        tokenise(examples(), tiny_tokenizer(words=["x"]))


@pytest.mark.parametrize(("unknown", "refused"), [(20, False), (21, True)])
def test_at_most_a_fifth_of_the_words_may_be_unknown(unknown: int, refused: bool) -> None:
    words = ["strange"] * unknown + ["good1"] * (100 - unknown)
    # Ten words in each text, so that the special tokens, half as many, would hide some if counted.
    texts = [" ".join(words[i : i + 10]) for i in range(0, 100, 10)]
    source = Examples(texts, None, np.arange(10) % 2)
    if refused:
        with pytest.raises(DataError, match="21% of the tokens are unknown"):
            tokenise(source, tiny_tokenizer())
    else:
        assert tokenise(source, tiny_tokenizer()).examples == 10


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(InputError, match="must have a padding token"):
        tokenise(examples(), tokenizer)


def data_with_loads(loads: list[int]) -> BatchedData:
    batches = tuple(
        tokenise(Examples(["good1"] * load, None, np.zeros(load)), tiny_tokenizer()).batches[0]
        for load in loads
    )
    return BatchedData(batches, np.zeros(sum(loads)), np.arange(sum(loads)))


def test_rows_of_a_span() -> None:
    data = data_with_loads([3, 1, 2])
    assert data.offsets.tolist() == [0, 3, 4, 6]
    assert data.rows(Span(1, 3)) == slice(3, 6)


def test_fingerprint_changes_with_everything_that_matters() -> None:
    base = examples()
    first = tokenise(base, tiny_tokenizer())
    assert first.fingerprint() == tokenise(base, tiny_tokenizer()).fingerprint()
    flipped = Examples(base.texts, None, 1 - base.labels)
    reworded = Examples(["good1 bad1", *base.texts[1:]], None, base.labels)
    others = [
        tokenise(flipped, tiny_tokenizer()),
        tokenise(reworded, tiny_tokenizer()),
        tokenise(base, tiny_tokenizer(), max_length=5),
        tokenise(base, tiny_tokenizer(), batch_examples=7),
    ]
    prints = {first.fingerprint(), *(other.fingerprint() for other in others)}
    assert len(prints) == 5
    reordered = BatchedData(first.batches, first.labels, first.order[::-1])
    assert reordered.fingerprint() not in prints
    renamed = [Batch({**first.batches[0].arrays, "more": np.zeros(1)}), *first.batches[1:]]
    assert BatchedData(tuple(renamed), first.labels, first.order).fingerprint() not in prints
