"""The durable memo: SQLite in WAL mode, shared by processes and by fingerprints.

In WAL mode with `synchronous=NORMAL` a transaction that was committed survives the death of the
process at any moment; a loss of power may cost the last ones, but never the file. Every record
has a checksum, because SQLite itself doesn't notice bytes that changed within a value.
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

from headsearch.errors import MemoError
from headsearch.memo.store import Record

APPLICATION = 0x48534D31  # "HSM1": says in the file's header whose it is
FORMAT = 1
TIMEOUT_SECONDS = 60.0
# SQLite's own limit on variables of one statement was 999 for long.
CHUNK = 500
# No page of SQLite is smaller; a shorter file is no database, though SQLite would
# overwrite one of a single byte.
LEAST_BYTES = 512

_CREATE = """
CREATE TABLE scores (
    fingerprint TEXT NOT NULL, kind TEXT NOT NULL, state BLOB NOT NULL,
    first INTEGER NOT NULL, stop INTEGER NOT NULL, value BLOB NOT NULL, checksum INTEGER NOT NULL,
    UNIQUE (fingerprint, kind, state, first, stop)
)
""".strip()


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
        found: dict[bytes, list[Record]] = {}
        for state, first, stop, value, checksum in self._select("value, checksum", kind, states):
            record = Record(state, kind, first, stop, value)
            found.setdefault(state, []).append(self._checked(record, checksum))
        return found

    def spans(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """See `MemoStore.spans`."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        for state, first, stop, _ in self._select("NULL", kind, states):
            found.setdefault(state, []).append((first, stop))
        return found

    def add(self, records: Sequence[Record]) -> None:
        """See `MemoStore.add`."""
        rows = [
            (
                self._fingerprint,
                record.kind,
                record.state,
                record.first,
                record.stop,
                record.value,
                self._checksum(record),
            )
            for record in records
        ]
        with self._errors("write to"), self._transaction():
            self._db.executemany(
                "INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
            )

    def _select(self, columns: str, kind: str, states: Sequence[bytes]) -> Iterator[Any]:
        """Yield (state, first, stop, *columns), each state's sorted by (first, stop)."""
        distinct = list(dict.fromkeys(states))
        for start in range(0, len(distinct), CHUNK):
            part = distinct[start : start + CHUNK]
            marks = ",".join("?" * len(part))
            with self._errors("read"):
                # All at once: a cursor left half read would hold the file open after an error.
                rows = self._db.execute(
                    f"SELECT state, first, stop, {columns} FROM scores WHERE fingerprint = ? "
                    f"AND kind = ? AND state IN ({marks}) ORDER BY first, stop",
                    (self._fingerprint, kind, *part),
                ).fetchall()
            yield from rows

    def count(self) -> int:
        """See `MemoStore.count`."""
        with self._errors("read"):
            (rows,) = self._db.execute(
                "SELECT count(*) FROM scores WHERE fingerprint = ?", (self._fingerprint,)
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
                self._db.execute(_CREATE)
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
        if application == APPLICATION and version > FORMAT:
            raise MemoError(
                f"the memo {self._path} must be of format {FORMAT} but is of format {version}"
            )
        if (application, version, schema) != (APPLICATION, FORMAT, [_CREATE]):
            raise MemoError(f"{self._path} is a SQLite file but not a memo of headsearch")
        return False

    def _checksum(self, record: Record) -> int:
        key = f"{self._fingerprint}\0{record.kind}\0{record.first}\0{record.stop}\0".encode()
        return zlib.crc32(record.value, zlib.crc32(record.state, zlib.crc32(key)))

    def _checked(self, record: Record, checksum: int) -> Record:
        """Return a record that was read, unless the file changed behind SQLite's back."""
        # In a damaged file a value can be of any type.
        if not isinstance(record.value, bytes) or self._checksum(record) != checksum:
            where = f"batches {record.first} to {record.stop} of the HeadSet {record.state.hex()}"
            raise self._corrupted(f"the checksum of {where} is wrong")
        return record

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
        except (sqlite3.Error, OSError) as error:
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
