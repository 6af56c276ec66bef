"""The durable memo: what it refuses, what it survives, and what it says."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from headsearch.errors import MemoError
from headsearch.memo import sqlite
from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import Block
from tests.memo.conformance import blocks, record

# Records that fit within a page, and records that fill several.
MANY = [
    record(i.to_bytes(2, "big"), value=random.Random(i).randbytes(11_000 if i % 5 == 0 else 700))
    for i in range(1, 201)
]
STATES = [r.state for r in MANY]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memo.sqlite"


@pytest.fixture
def full(path: Path) -> Path:
    """A closed memo of many pages."""
    with closing(SqliteStore(path, "f")) as store:
        store.add(blocks(MANY))
    return path


def refusal(path: Path, fingerprint: str = "f") -> str:
    """Return what opening and reading a file is refused with; nothing on the disk may change."""
    before = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    with pytest.raises(MemoError) as caught, closing(SqliteStore(path, fingerprint)) as store:
        store.find("outputs", STATES)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} == before
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


class TestKept:
    def test_records_outlive_the_store(self, full: Path) -> None:
        with closing(SqliteStore(full, "f")) as store:
            assert store.find("outputs", STATES) == {r.state: [r] for r in MANY}

    def test_fingerprints_share_a_file_and_see_nothing_of_each_other(self, path: Path) -> None:
        mine, yours = record(b"\x01", value=b"mine"), record(b"\x01", value=b"yours")
        with closing(SqliteStore(path, "a")) as a, closing(SqliteStore(path, "b")) as b:
            a.add(blocks([mine]))
            b.add(blocks([yours]))
            assert a.find("outputs", [b"\x01"]) == {b"\x01": [mine]}
            assert b.find("outputs", [b"\x01"]) == {b"\x01": [yours]}
            assert (a.count(), b.count()) == (1, 1)

    def test_two_stores_on_one_file_agree_on_the_first(self, path: Path) -> None:
        first, second = record(b"\x01", value=b"first"), record(b"\x01", value=b"second")
        with closing(SqliteStore(path, "f")) as a, closing(SqliteStore(path, "f")) as b:
            a.add(blocks([first]))
            b.add(blocks([second]))
            for store in (a, b):
                assert store.find("outputs", [b"\x01"]) == {b"\x01": [first]}

    def test_the_file_says_whose_it_is(self, full: Path) -> None:
        # The file format's own documentation: user version at 60, application id at 68.
        header = full.read_bytes()[:100]
        assert header[60:64] == bytes([0, 0, 0, 2])
        assert header[68:72] == b"HSM1"

    def test_an_empty_file_becomes_a_memo(self, path: Path) -> None:
        path.touch()
        with closing(SqliteStore(path, "f")) as store:
            store.add(blocks(MANY))
            assert store.count() == len(MANY)

    def test_any_file_name_will_do(self, tmp_path: Path) -> None:
        folder = tmp_path / "a b?mode=ro#%41"
        folder.mkdir()
        for _ in range(2):
            with closing(SqliteStore(folder / "memo ?#.sqlite", "f")) as store:
                store.add(blocks([record(b"\x01")]))
                assert store.count() == 1


class TestRefused:
    @pytest.mark.parametrize(
        "content",
        [b"x", b"\n", b"no memo\n", b"text, label\n" * 1000, b"SQLite format 3\x00", bytes(4096)],
        ids=["one byte", "a newline", "a line", "a CSV file", "a header's start", "zeros"],
    )
    def test_a_file_of_another_kind(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert "is not a memo" in refusal(path)

    @pytest.mark.parametrize(
        "script",
        [
            "CREATE TABLE scores (name TEXT)",
            "CREATE VIEW v AS SELECT 1",
            "PRAGMA application_id = 7",
            "PRAGMA user_version = 7",
            "CREATE TABLE t (x); PRAGMA application_id = 0x48534D31; PRAGMA user_version = 2",
            "PRAGMA journal_mode = WAL; CREATE TABLE t (x)",
        ],
    )
    def test_another_programs_sqlite_file(self, path: Path, script: str) -> None:
        with closing(sqlite3.connect(path)) as other:
            other.executescript(script)
        assert "is a SQLite file but not a memo of headsearch" in refusal(path)

    def test_another_programs_log_stays_where_it_is(self, tmp_path: Path) -> None:
        # A crashed program's file and log: an ordinary connection would move one into the other.
        crashed, path = tmp_path / "crashed.db", tmp_path / "copy.db"
        with closing(sqlite3.connect(crashed)) as other:
            other.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x)")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.executescript("INSERT INTO t VALUES (1)")
            for end in ("", "-wal"):
                Path(f"{path}{end}").write_bytes(Path(f"{crashed}{end}").read_bytes())
        for left in tmp_path.glob("crashed*"):
            left.unlink()
        assert Path(f"{path}-wal").stat().st_size > 0
        assert "is a SQLite file but not a memo of headsearch" in refusal(path)

    @pytest.mark.parametrize("version", [1, 3])
    def test_a_memo_of_another_format(self, full: Path, version: int) -> None:
        with closing(sqlite3.connect(full)) as other:
            other.executescript(f"CREATE TABLE more (x); PRAGMA user_version = {version}")
        assert f"must be of format 2 but is of format {version}" in refusal(full)

    def test_a_folder_in_place_of_the_file(self, path: Path) -> None:
        path.mkdir()
        assert "a memo must be a file but" in refusal(path)

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        with pytest.raises(MemoError, match=f"the folder of the memo must exist: {missing}$"):
            SqliteStore(missing / "memo.sqlite", "f")

    def test_a_file_in_place_of_the_folder(self, full: Path) -> None:
        with pytest.raises(MemoError, match=f"the folder of the memo must exist: {full}$"):
            SqliteStore(full / "memo.sqlite", "f")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_the_right_to_write(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(MemoError, match="the folder of the memo must be writable: "):
                SqliteStore(tmp_path / "memo.sqlite", "f")
        finally:
            tmp_path.chmod(0o700)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    @pytest.mark.parametrize("mode", [0o000, 0o200, 0o400], ids=oct)
    def test_a_file_without_the_rights(self, full: Path, mode: int) -> None:
        full.chmod(mode)
        with pytest.raises(MemoError, match=f"the memo must be readable and writable: {full}$"):
            SqliteStore(full, "f")


class TestDamaged:
    def test_a_truncated_file(self, full: Path) -> None:
        content = full.read_bytes()
        full.write_bytes(content[: len(content) // 2])
        assert "is corrupted" in refusal(full)

    def test_a_file_with_a_hole_in_the_middle(self, full: Path) -> None:
        content = bytearray(full.read_bytes())
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 3 * 4096] = b"\xa5" * (3 * 4096)
        full.write_bytes(content)
        assert "is corrupted" in refusal(full)

    @pytest.mark.parametrize("which", [0, 4], ids=["within a page", "over several pages"])
    def test_one_bit_of_a_value(self, full: Path, which: int) -> None:
        content = bytearray(full.read_bytes())
        # The value's last bytes: SQLite's own check doesn't look at them.
        end = content.index(MANY[which].value[-60:])
        content[end + 30] ^= 1
        full.write_bytes(content)
        assert f"the checksum of batches 0 to 4 of the HeadSet {MANY[which].state.hex()}" in (
            refusal(full)
        )

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE records SET block = block + 1 WHERE set_number = 1",
            "UPDATE records SET place = place + 1 WHERE set_number = 1",
            "UPDATE records SET first = 4, stop = 8 WHERE set_number = 1",
            "UPDATE sets SET kind = 'gradients' WHERE number = 1",
            "UPDATE sets SET fingerprint = 'f' WHERE fingerprint = 'other'",
            "DELETE FROM blocks WHERE number = 1",
        ],
    )
    def test_an_index_that_names_what_another_record_has(self, full: Path, change: str) -> None:
        with closing(SqliteStore(full, "other")) as store:
            store.add(blocks([record(b"\xff\xff")]))
        with closing(sqlite3.connect(full)) as other:
            other.executescript(change)
        kind = "gradients" if "gradients" in change else "outputs"
        with (
            closing(SqliteStore(full, "f")) as store,
            pytest.raises(MemoError, match=r"the checksum of batches \d to \d of the HeadSet"),
        ):
            store.find(kind, [*STATES, b"\xff\xff"])

    @pytest.mark.parametrize("seed", range(24))
    def test_bytes_anywhere_are_noticed_or_harmless(self, full: Path, seed: int) -> None:
        where = random.Random(seed)
        content = bytearray(full.read_bytes())
        at = where.randrange(len(content) - 16)
        content[at : at + 16] = where.randbytes(16)
        full.write_bytes(content)
        found = {}
        with suppress(MemoError), closing(SqliteStore(full, "f")) as store:
            found = store.find("outputs", STATES)
        # A record may be missing, then it is computed again; none is ever wrong.
        right = {r.state: [r] for r in MANY}
        assert all(right[state] == records for state, records in found.items())

    def test_damage_that_happens_while_the_memo_is_open(self, path: Path) -> None:
        # More than SQLite's cache of 2 MB holds, so that it has to look into the file again.
        records = [record(i.to_bytes(2, "big"), value=bytes(3500)) for i in range(1, 1201)]
        with closing(SqliteStore(path, "f")) as store:
            store.add(blocks(records))
            store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            content = path.read_bytes()
            path.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
            with pytest.raises(MemoError, match="is corrupted"):
                store.find("outputs", [r.state for r in records])


class TestInUse:
    def test_states_of_which_the_numbers_were_forgotten_are_stored_as_well(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite, "MOST_NUMBERS", 3)
        states = [bytes([i]) for i in range(1, 9)]
        with closing(SqliteStore(path, "f")) as store:
            for first in range(3):
                for start in (0, 2, 4, 1):
                    some = tuple(states[start : start + 4])
                    store.add([Block("outputs", first * 9 + start, 99, some, b"", bytes(8))])
            found = store.spans("outputs", states)
        assert found == {
            state: [
                (first * 9 + start, 99)
                for first in range(3)
                for start in (0, 1, 2, 4)
                if state in states[start : start + 4]
            ]
            for state in states
        }

    def test_what_was_committed_outlives_the_process_and_the_file_a_loss_of_power(
        self, full: Path
    ) -> None:
        # SQLite's documentation of `synchronous` and of WAL: 0 would risk the file itself.
        with closing(SqliteStore(full, "f")) as store:
            assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert store._db.execute("PRAGMA synchronous").fetchone()[0] >= 1

    def test_a_full_disk_keeps_all_that_was_committed(self, path: Path) -> None:
        early, batch = MANY[:50], MANY[50:]
        with closing(SqliteStore(path, "f")) as store:
            store.add(blocks(early))
            # SQLite reports its own limit on pages just as it reports a full disk.
            store._db.execute("PRAGMA max_page_count = 1")  # that is: no more than there are
            with pytest.raises(MemoError) as caught:
                store.add(blocks(batch))
            assert str(caught.value) == (
                f"could not write to the memo {path}: the disk is full; all scores committed "
                "before are kept"
            )
            assert store.find("outputs", STATES) == {r.state: [r] for r in early}
            store._db.execute("PRAGMA max_page_count = 100000")  # room was made
            store.add(blocks(batch))
        with closing(SqliteStore(path, "f")) as store:
            assert store.find("outputs", STATES) == {r.state: [r] for r in MANY}

    def test_an_interrupted_batch_is_not_there_at_all(self, path: Path) -> None:
        class Interrupted(list):
            def __iter__(self):
                yield blocks(MANY)[0]
                raise KeyboardInterrupt

        with closing(SqliteStore(path, "f")) as store:
            with pytest.raises(KeyboardInterrupt):
                store.add(Interrupted())
            assert store.count() == 0
            store.add(blocks(MANY))
            assert store.count() == len(MANY)

    def test_a_lock_that_is_held_too_long(
        self, full: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite, "TIMEOUT_SECONDS", 0.05)
        said = f"the memo {full} was locked by another process for 0.05 s"
        with (
            closing(SqliteStore(full, "f")) as store,
            closing(sqlite3.connect(full, isolation_level=None)) as other,
        ):
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(MemoError, match=said):
                store.add(blocks([record(b"\x99")]))
            assert store.find("outputs", STATES[:1]) == {STATES[0]: [MANY[0]]}  # reading goes on
            other.execute("ROLLBACK")
            store.add(blocks([record(b"\x99")]))
            assert store.find("outputs", [b"\x99"]) == {b"\x99": [record(b"\x99")]}

    def test_a_lock_that_is_held_exclusively(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite, "TIMEOUT_SECONDS", 0.05)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(MemoError, match=r"was locked by another process for 0\.05 s"):
                SqliteStore(path, "f")

    def test_a_closed_store_says_so(self, full: Path) -> None:
        store = SqliteStore(full, "f")
        store.close()
        with pytest.raises(MemoError, match=r"could not read the memo .* closed"):
            store.find("outputs", STATES)
