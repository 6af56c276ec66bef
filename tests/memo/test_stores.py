"""Every store keeps the specification of `MemoStore`."""

from __future__ import annotations

from pathlib import Path

from headsearch.memo.memory import MemoryStore
from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import MemoStore
from tests.memo.conformance import StoreConformance, blocks, record


class TestMemoryStore(StoreConformance):
    def make(self, folder: Path) -> MemoStore:
        return MemoryStore()


class TestSqliteStore(StoreConformance):
    def make(self, folder: Path) -> MemoStore:
        return SqliteStore(folder / "memo.sqlite", "fingerprint")


class TestSqliteStoreBesideAnotherFingerprint(StoreConformance):
    """The same states of another model are in the file already; none of it may show."""

    def make(self, folder: Path) -> MemoStore:
        other = TestSqliteStore().make(folder)
        other.add(blocks(record(state, value=b"other") for state in (b"", b"\x01", b"\x02")))
        other.close()
        return SqliteStore(folder / "memo.sqlite", "other fingerprint")
