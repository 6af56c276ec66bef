"""What every memo store must do. A store's tests inherit `StoreConformance` and add `make`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from headsearch.memo.store import Block, MemoStore, Record


def record(
    state: bytes, first: int = 0, stop: int = 4, value: bytes = b"v", kind: str = "outputs"
) -> Record:
    """Return a record; what a test doesn't name doesn't matter to it."""
    return Record(state, kind, first, stop, value)


def blocks(records: Iterable[Record]) -> list[Block]:
    """Return a block for each record."""
    return [Block(r.kind, r.first, r.stop, (r.state,), b"", r.value) for r in records]


class StoreConformance:
    """The specification of `MemoStore`."""

    def make(self, folder: Path) -> MemoStore:
        """Return an empty store."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[MemoStore]:
        made = self.make(tmp_path)
        yield made
        made.close()

    def test_a_new_store_is_empty(self, store: MemoStore) -> None:
        assert store.count() == 0
        assert store.find("outputs", [b"", b"\x01"]) == {}

    def test_what_was_added_is_found_and_the_rest_is_absent(self, store: MemoStore) -> None:
        one, two = record(b"\x01", value=b"one"), record(b"\x02", value=b"two")
        store.add(blocks([one, two]))
        assert store.find("outputs", [b"\x02", b"\x03", b"\x01"]) == {
            b"\x01": [one],
            b"\x02": [two],
        }
        assert store.count() == 2

    def test_the_empty_head_set_is_a_state_like_any_other(self, store: MemoStore) -> None:
        nothing_removed = record(b"")
        store.add(blocks([nothing_removed]))
        assert store.find("outputs", [b""]) == {b"": [nothing_removed]}

    def test_states_that_differ_in_zero_bytes_are_different(self, store: MemoStore) -> None:
        records = [record(state, value=state) for state in (b"", b"\x00", b"\x00\x00", b"\x01\x00")]
        store.add(blocks(records))
        assert store.find("outputs", [r.state for r in records]) == {r.state: [r] for r in records}

    def test_any_bytes_come_back_as_they_were(self, store: MemoStore) -> None:
        values = [b"", b"\x00", bytes(range(256)), b"\xff" * 300_000]
        records = [record(bytes([i]), value=value) for i, value in enumerate(values, 1)]
        store.add(blocks(records))
        found = store.find("outputs", [r.state for r in records])
        assert [found[r.state][0].value for r in records] == values

    def test_spans_of_a_state_are_sorted_by_first_then_stop(self, store: MemoStore) -> None:
        spans = [(4, 8), (0, 8), (10, 12), (0, 4), (4, 6)]
        store.add(blocks([record(b"\x01", first, stop) for first, stop in spans]))
        found = store.find("outputs", [b"\x01"])[b"\x01"]
        assert [(r.first, r.stop) for r in found] == [(0, 4), (0, 8), (4, 6), (4, 8), (10, 12)]

    def test_spans_are_known_without_the_values(self, store: MemoStore) -> None:
        store.add(
            blocks([record(b"\x01", first, stop) for first, stop in [(4, 8), (0, 4), (0, 2)]])
        )
        store.add(blocks([record(b"\x02"), record(b"\x03", 5, 6, kind="gradients")]))
        asked = [b"\x01", b"\x03", b"\x04"]
        assert store.spans("outputs", asked) == {b"\x01": [(0, 2), (0, 4), (4, 8)]}
        assert store.spans("gradients", asked) == {b"\x03": [(5, 6)]}

    def test_kinds_are_apart(self, store: MemoStore) -> None:
        outputs = record(b"\x01", value=b"o")
        gradients = record(b"\x01", value=b"g", kind="gradients")
        store.add(blocks([outputs, gradients]))
        assert store.find("outputs", [b"\x01"]) == {b"\x01": [outputs]}
        assert store.find("gradients", [b"\x01"]) == {b"\x01": [gradients]}

    def test_the_first_stays(self, store: MemoStore) -> None:
        first, second = record(b"\x01", value=b"first"), record(b"\x01", value=b"second")
        other = record(b"\x02")
        store.add(blocks([first]))
        store.add(blocks([other, second]))
        assert store.find("outputs", [b"\x01"]) == {b"\x01": [first]}
        assert store.count() == 2

    def test_the_first_stays_within_one_call_too(self, store: MemoStore) -> None:
        first, second = record(b"\x01", value=b"first"), record(b"\x01", value=b"second")
        store.add(blocks([first, second]))
        assert store.find("outputs", [b"\x01"]) == {b"\x01": [first]}
        assert store.count() == 1

    def test_adding_nothing_changes_nothing(self, store: MemoStore) -> None:
        store.add(blocks([]))
        assert store.find("outputs", []) == {}
        assert store.count() == 0

    def test_what_was_computed_together_is_found_by_each_state(self, store: MemoStore) -> None:
        states = (b"\x01", b"\x02", b"\x03")
        store.add([Block("outputs", 0, 4, states, b"head ", b"onetwosix")])
        store.add([Block("outputs", 0, 4, (b"\x03", b"\x04"), b"", b"newfor")])
        assert store.find("outputs", [b"\x04", b"\x03", b"\x01"]) == {
            b"\x01": [record(b"\x01", value=b"head one")],
            b"\x03": [record(b"\x03", value=b"head six")],
            b"\x04": [record(b"\x04", value=b"for")],
        }
        assert store.count() == 4

    def test_thousands_of_states_are_found_at_once(self, store: MemoStore) -> None:
        records = [record(i.to_bytes(2, "big"), value=str(i).encode()) for i in range(2500)]
        store.add(blocks(records))
        found = store.find("outputs", [r.state for r in reversed(records)])
        assert found == {r.state: [r] for r in records}

    def test_a_state_asked_for_many_times_is_answered_once(self, store: MemoStore) -> None:
        one = record(b"\x01")
        store.add(blocks([one]))
        assert store.find("outputs", [b"\x01"] * 2500) == {b"\x01": [one]}

    def test_what_was_handed_out_is_the_callers(self, store: MemoStore) -> None:
        one = record(b"\x01")
        store.add(blocks([one]))
        store.find("outputs", [b"\x01"])[b"\x01"].clear()
        assert store.find("outputs", [b"\x01"]) == {b"\x01": [one]}

    def test_closing_twice_does_no_harm(self, store: MemoStore) -> None:
        store.close()
        store.close()
