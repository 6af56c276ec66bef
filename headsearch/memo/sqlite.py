"""The durable memo: SQLite in WAL mode, shared by processes and by fingerprints.

In WAL mode with `synchronous=NORMAL` a transaction that was committed survives the death of the
process at any moment; a loss of power may cost the last ones, but never the file.

Records that were computed together, of many HeadSets on the same batches, are kept together in a
block, and a narrow index says which block has what: a row for each record with all its keys took
ten times as long to write. Every block has a checksum, because SQLite itself doesn't notice bytes
that changed within a value, and repeats its records' keys, so that a damaged index can't pass one
HeadSet's outputs off as another's.
"""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgpack

from headsearch.errors import MemoError
from headsearch.memo.store import Block, Record

APPLICATION = 0x48534D31  # "HSM1": says in the file's header whose it is
FORMAT = 2
TIMEOUT_SECONDS = 60.0
# SQLite's own limit on variables of one statement was 999 for long.
CHUNK = 500
# No page of SQLite is smaller; a shorter file is no database, though SQLite would
# overwrite one of a single byte.
LEAST_BYTES = 512

# How many HeadSets' numbers are remembered.
MOST_NUMBERS = 100_000

_CREATE = (
    """
CREATE TABLE sets (
    number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, kind TEXT NOT NULL,
    state BLOB NOT NULL, UNIQUE (fingerprint, kind, state)
)
""".strip(),
    """
CREATE TABLE blocks (number INTEGER PRIMARY KEY, content BLOB NOT NULL, checksum INTEGER NOT NULL)
""".strip(),
    """
CREATE TABLE records (
    set_number INTEGER NOT NULL, first INTEGER NOT NULL, stop INTEGER NOT NULL,
    block INTEGER NOT NULL, place INTEGER NOT NULL, PRIMARY KEY (set_number, first, stop)
) WITHOUT ROWID
""".strip(),
)


class SqliteStore:
    """See `MemoStore`.

    Args:
        path: the file; made if it is not there.
        fingerprint: records of other fingerprints in the same file are not seen.

    Raises:
        MemoError: the file is corrupted, of another program or a newer format, or not writable.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = Path(path)
        self._fingerprint = fingerprint
        self._numbers: dict[str, dict[bytes, int]] = {}  # by kind, of states in the file
        folder = self._path.parent
        if not os.path.isdir(folder):
            raise MemoError(f"the folder of the memo must exist: {folder}")
        if os.path.isdir(self._path):
            raise MemoError(f"a memo must be a file but {self._path} is a folder")
        # SQLite keeps its write-ahead log beside the file.
        if not os.access(folder, os.W_OK):
            raise MemoError(f"the folder of the memo must be writable: {folder}")
        # SQLite would open it for reading, and the first score would be lost.
        if os.path.exists(self._path) and not os.access(self._path, os.R_OK | os.W_OK):
            raise MemoError(f"the memo must be readable and writable: {self._path}")
        with self._errors("open"):
            self._refuse_foreign()
            # Transactions are begun and ended by hand.
            self._db = sqlite3.connect(
                self._path, timeout=TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors("open"):
                self._open()
        except BaseException:
            self._db.close()
            raise

    def find(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """See `MemoStore.find`."""
        rows = list(self._select("first, stop, block, place", kind, states))
        blocks = self._blocks(sorted({block for _, _, _, block, _ in rows}))
        found: dict[bytes, list[Record]] = {}
        for state, first, stop, number, place in rows:
            block = blocks.get(number)
            if (
                block is None
                or block[:3] != (kind, first, stop)
                or block.states[place : place + 1] != (state,)
            ):
                where = f"batches {first} to {stop} of the HeadSet {state.hex()}"
                raise self._corrupted(f"the checksum of {where} is wrong")
            found.setdefault(state, []).append(block.record(place))
        return found

    def spans(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """See `MemoStore.spans`."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        for state, first, stop in self._select("first, stop", kind, states):
            found.setdefault(state, []).append((first, stop))
        return found

    def add(self, blocks: Sequence[Block]) -> None:
        """See `MemoStore.add`."""
        try:
            with self._errors("write to"), self._transaction():
                for block in blocks:
                    self._add_block(block)
        except BaseException:
            self._numbers.clear()  # some were given out in what was rolled back
            raise

    def _add_block(self, block: Block) -> None:
        numbers = self._numbers_of(block.kind, block.states)
        content = msgpack.packb([self._fingerprint, *block])
        number = self._db.execute(
            "INSERT INTO blocks (content, checksum) VALUES (?, ?)", (content, zlib.crc32(content))
        ).lastrowid
        self._db.executemany(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (numbers[state], block.first, block.stop, number, place)
                for place, state in enumerate(block.states)
            ],
        )

    def _numbers_of(self, kind: str, states: Sequence[bytes]) -> dict[bytes, int]:
        """Return the numbers of states, giving one to each that has none."""
        known = self._numbers.setdefault(kind, {})
        missing = list(dict.fromkeys(state for state in states if state not in known))
        if missing:
            if len(known) > MOST_NUMBERS:
                known.clear()
                missing = list(dict.fromkeys(states))
            self._db.executemany(
                "INSERT INTO sets (fingerprint, kind, state) VALUES (?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                [(self._fingerprint, kind, state) for state in missing],
            )
            for start in range(0, len(missing), CHUNK):
                part = missing[start : start + CHUNK]
                known.update(
                    self._db.execute(
                        "SELECT state, number FROM sets WHERE fingerprint = ? AND kind = ? "
                        f"AND state IN ({_marks(part)})",
                        (self._fingerprint, kind, *part),
                    )
                )
        return known

    def _blocks(self, numbers: Sequence[int]) -> dict[int, Block]:
        """Return blocks, without those that are damaged or of another fingerprint."""
        found = {}
        for start in range(0, len(numbers), CHUNK):
            part = numbers[start : start + CHUNK]
            with self._errors("read"):
                rows = self._db.execute(
                    "SELECT number, content, checksum FROM blocks "
                    f"WHERE number IN ({_marks(part)})",
                    part,
                ).fetchall()
            for number, content, checksum in rows:
                # In a damaged file a value can be of any type.
                if isinstance(content, bytes) and zlib.crc32(content) == checksum:
                    fingerprint, kind, first, stop, states, head, data = msgpack.unpackb(content)
                    if fingerprint == self._fingerprint:
                        found[number] = Block(kind, first, stop, tuple(states), head, data)
        return found

    def _select(self, columns: str, kind: str, states: Sequence[bytes]) -> Iterator[Any]:
        """Yield (state, *columns) of records, each state's sorted by (first, stop)."""
        distinct = list(dict.fromkeys(states))
        for start in range(0, len(distinct), CHUNK):
            part = distinct[start : start + CHUNK]
            with self._errors("read"):
                # All at once: a cursor left half read would hold the file open after an error.
                rows = self._db.execute(
                    f"SELECT state, {columns} FROM sets JOIN records ON set_number = number "
                    f"WHERE fingerprint = ? AND kind = ? AND state IN ({_marks(part)}) "
                    "ORDER BY first, stop",
                    (self._fingerprint, kind, *part),
                ).fetchall()
            yield from rows

    def count(self) -> int:
        """See `MemoStore.count`."""
        with self._errors("read"):
            (rows,) = self._db.execute(
                "SELECT count(*) FROM sets JOIN records ON set_number = number "
                "WHERE fingerprint = ?",
                (self._fingerprint,),
            ).fetchone()
        return int(rows)

    def close(self) -> None:
        """See `MemoStore.close`."""
        self._db.close()

    def _refuse_foreign(self) -> None:
        """Raise if the file is another program's, through a connection that can't change it.

        An ordinary connection would move what another program left in its log into its file.
        """
        if not self._path.exists():
            return
        size = self._path.stat().st_size
        if 0 < size < LEAST_BYTES:
            raise MemoError(
                f"{self._path} is not a memo: it has {size} bytes, too few; nothing was changed"
            )
        uri = f"{self._path.absolute().as_uri()}?immutable=1"
        look = closing(sqlite3.connect(uri, uri=True, isolation_level=None))
        # It takes no lock, so what seems damaged may be another process's write under way:
        # that is for the ordinary connection to tell.
        with look as db, suppress(sqlite3.DatabaseError):
            db.execute("BEGIN")
            self._is_new(db)

    def _open(self) -> None:
        """Make the table if the file is new, all in one transaction, and look for damage."""
        self._use_wal()
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():  # another process may be making it at this moment
            if self._is_new(self._db):
                for statement in _CREATE:
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {FORMAT}")
        (state,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise self._corrupted(" ".join(state.split()))

    def _use_wal(self) -> None:
        """Go over to WAL, which needs the file alone and, unlike all else, doesn't wait for it."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "is locked" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _is_new(self, db: sqlite3.Connection) -> bool:
        """Return whether the file is still empty, which a memo killed at its making is too.

        Within a transaction, so that all that is read belongs together.
        """
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        # Indices that SQLite made by itself have no text.
        schema = [s for (s,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
        if (application, version, schema) == (0, 0, []):
            return True
        if application == APPLICATION and version != FORMAT:
            raise MemoError(
                f"the memo {self._path} must be of format {FORMAT} but is of format {version}"
            )
        if (application, version, schema) != (APPLICATION, FORMAT, [*_CREATE]):
            raise MemoError(f"{self._path} is a SQLite file but not a memo of headsearch")
        return False

    def _corrupted(self, why: str) -> MemoError:
        return MemoError(f"the memo {self._path} is corrupted: {why}; nothing was changed")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        """Turn the errors of SQLite and of the file system into one clear line."""
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError) as error:
            # Python 3.10 doesn't give SQLite's code, so its text, which is fixed, has to tell.
            text = str(error)
            if "not a database" in text:
                line = f"{self._path} is not a memo: {text}; nothing was changed"
            elif "malformed" in text:
                raise self._corrupted(text) from None
            elif "disk is full" in text:
                line = (
                    f"could not write to the memo {self._path}: the disk is full; all scores "
                    "committed before are kept"
                )
            elif "is locked" in text:
                line = (
                    f"the memo {self._path} was locked by another process for {TIMEOUT_SECONDS:g} s"
                )
            else:
                line = f"could not {action} the memo {self._path}: {text}"
            raise MemoError(line) from None


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
