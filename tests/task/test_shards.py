"""Rounds and pieces cover every batch once; runs are cut as evenly as can be."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from headsearch.errors import InputError
from headsearch.task.batches import ROUNDS, Batch, BatchedData, Span, round_of
from headsearch.task.shards import cut, lay_out, lay_out_in_order, rounds


def data_with(loads: list[int]) -> BatchedData:
    """Batches of one example each, with so many tokens."""
    batches = tuple(
        Batch(
            {
                "input_ids": np.zeros((1, load), np.int64),
                "attention_mask": np.ones((1, load), np.int64),
            }
        )
        for load in loads
    )
    return BatchedData(batches, np.zeros(len(loads)), np.arange(len(loads)))


@pytest.mark.parametrize("loads", [[1], [5, 1, 1, 1], [1, 2, 3, 4, 5, 6], [9, 1, 9, 1, 9], [2] * 7])
def test_the_largest_run_is_as_small_as_can_be(loads: list[int]) -> None:
    for count in range(1, len(loads) + 1):
        runs = cut(loads, count)
        assert len(runs) == count
        assert [i for first, stop in runs for i in range(first, stop)] == list(range(len(loads)))
        found = max(sum(loads[first:stop]) for first, stop in runs)
        cuts = itertools.combinations(range(1, len(loads)), count - 1)
        best = min(
            max(sum(loads[a:b]) for a, b in itertools.pairwise([0, *inner, len(loads)]))
            for inner in cuts
        )
        assert found == best


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 7, 8, 28, 155])
def test_rounds_are_a_half_a_quarter_an_eighth_and_the_rest(batches: int) -> None:
    found = rounds(batches)
    assert [b for span in found for b in range(span.first, span.stop)] == list(range(batches))
    sizes = [span.stop - span.first for span in found]
    assert sum(sizes) == batches
    assert len(sizes) <= ROUNDS
    left = batches
    for size in sizes[:-1]:
        assert size == (left + 1) // 2
        left -= size


def test_every_round_is_a_sample_of_all_lengths() -> None:
    by_round: dict[int, list[int]] = {}
    for place in range(64):
        by_round.setdefault(round_of(place), []).append(place)
    assert by_round[0] == list(range(0, 64, 2))
    assert by_round[1] == list(range(1, 64, 4))
    assert by_round[2] == list(range(3, 64, 8))
    assert by_round[3] == list(range(7, 64, 8))


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 13])
def test_pieces_lie_in_rounds_and_cover_all(shards: int) -> None:
    loads = [3, 9, 4, 4, 8, 1, 1, 7, 20, 2, 5, 5, 6]
    layout = lay_out(data_with(loads), shards)
    assert [b for p in layout.pieces for b in range(p.span.first, p.span.stop)] == list(range(13))
    for piece in layout.pieces:
        whole = layout.rounds[piece.round]
        assert whole.first <= piece.span.first < piece.span.stop <= whole.stop
        assert piece.load == sum(loads[piece.span.first : piece.span.stop])
    assert {piece.shard for piece in layout.pieces} == set(range(shards))
    by_round = [[layout.pieces[i].round for i in places] for places in layout.pieces_of_round]
    assert by_round == [[r] * len(found) for r, found in enumerate(by_round)]
    assert layout.load == sum(loads)
    assert layout.rows == 13
    assert layout.rows_of(Span(2, 5)) == 3


@pytest.mark.parametrize("shards", [1, 3])
def test_pieces_of_an_order_cover_its_rounds(shards: int) -> None:
    random = np.random.default_rng(0)
    loads = [int(n) for n in random.integers(3, 50, size=200)]
    base = lay_out(data_with(loads), shards)
    order, ends = random.permutation(200), (40, 90, 200)
    layout = lay_out_in_order(base, order, ends)
    assert all(piece.span.first < 0 for piece in layout.pieces)
    for number, (first, stop) in enumerate(zip((0, *ends), ends, strict=False)):
        places = layout.pieces_of_round[number]
        found = np.concatenate([layout.pieces[place].where for place in places])
        assert sorted(found) == sorted(order[first:stop])
        for place in places:
            sizes = [loads[i] for i in layout.pieces[place].where]
            assert sizes == sorted(sizes), "neighbours of one length"
            assert layout.pieces[place].load == sum(sizes)
            assert layout.pieces[place].round == number
            assert layout.rows_of(layout.pieces[place].span) == len(sizes)
    assert layout.bits_of_round[-1] == (1 << 200) - 1
    assert layout.bits_of_round[0].bit_count() == 40
    assert {piece.shard for piece in layout.pieces} == set(range(shards))
    again = lay_out_in_order(base, order.copy(), ends)
    assert again.pieces == layout.pieces
    assert lay_out_in_order(base, order[::-1], ends).pieces != layout.pieces


@pytest.mark.parametrize("shards", [1, 3])
def test_no_answer_of_a_piece_is_larger_than_may_be_stored(
    shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headsearch.task.shards.PIECE_BYTES", 1000)
    data = data_with([7] * 300)
    assert lay_out(data, shards, row_bytes=3) == replace(lay_out(data, shards), row_bytes=3)
    layout = lay_out(data, shards, row_bytes=50)
    assert max(layout.rows_of(piece.span) for piece in layout.pieces) in (19, 20)
    order = np.random.default_rng(0).permutation(300)
    found = lay_out_in_order(layout, order, (130, 300))
    assert max(layout.rows_of(piece.span) for piece in found.pieces) <= 20
    assert sorted(np.concatenate([piece.where for piece in found.pieces])) == list(range(300))


def test_shards_have_about_the_same_load() -> None:
    random = np.random.default_rng(0)
    layout = lay_out(data_with([int(n) for n in random.integers(50, 100, size=155)]), 8)
    sums = [sum(p.load for p in layout.pieces if p.shard == shard) for shard in range(8)]
    assert max(sums) < 1.05 * layout.load / 8


def test_more_shards_than_batches_or_none() -> None:
    for count in (0, 4):
        with pytest.raises(InputError, match=f"--shards must be between 1 and 3, .* got {count}"):
            lay_out(data_with([1, 1, 1]), count)


def test_each_shard_has_a_worker_and_heavy_ones_have_more() -> None:
    layout = lay_out(data_with([30, 1, 9, 20]), 4)
    loads = layout.load_of_shard
    assert sorted(loads) == [1, 9, 20, 30]
    assert [layout.home(slot) for slot in (3, 0, 2, 1)] == [3, 0, 2, 1], "one each, in any order"
    workers = [0] * 4
    for slot in range(30):
        workers[layout.home(slot)] += 1
        if slot >= 20:
            for shard in range(4):
                assert abs(workers[shard] - loads[shard] * (slot + 1) / 60) < 1.5
    assert sorted(workers)[0] == 1


def test_equal_shards_have_equally_many_workers() -> None:
    layout = lay_out(data_with([5] * 12), 3)
    assert [layout.home(slot) for slot in range(9)] == [0, 1, 2] * 3
