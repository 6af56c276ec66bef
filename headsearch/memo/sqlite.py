"""The durable memo: SQLite in WAL mode, shared by processes and by fingerprints.

In WAL mode with `synchronous=NORMAL` a transaction that was committed survives the death of the
process at any moment; a loss of power may cost the last ones, but never the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headsearch.errors import MemoError
from headsearch.memo.store import Record

APPLICATION = 0x48534D31  # "HSM1": says in the file's header whose it is
FORMAT = 1
TIMEOUT_SECONDS = 60.0
# SQLite's own limit on variables of one statement was 999 for long.
CHUNK = 500

_CREATE = """
CREATE TABLE scores (
    fingerprint TEXT NOT NULL, kind TEXT NOT NULL, state BLOB NOT NULL,
    first INTEGER NOT NULL, stop INTEGER NOT NULL, value BLOB NOT NULL,
    UNIQUE (fingerprint, kind, state, first, stop)
)
"""


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
        if not self._path.parent.is_dir():
            raise MemoError(f"the folder of the memo must exist: {self._path.parent}")
        if self._path.is_dir():
            raise MemoError(f"a memo must be a file but {self._path} is a folder")
        with self._errors("open"):
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
        with self._errors("read"):
            for start in range(0, len(states), CHUNK):
                part = states[start : start + CHUNK]
                rows = self._db.execute(
                    "SELECT state, first, stop, value FROM scores WHERE fingerprint = ? "
                    f"AND kind = ? AND state IN ({','.join('?' * len(part))}) "
                    "ORDER BY first, stop",
                    (self._fingerprint, kind, *part),
                )
                for state, first, stop, value in rows:
                    found.setdefault(state, []).append(Record(state, kind, first, stop, value))
        return found

    def add(self, records: Sequence[Record]) -> list[Record]:
        """See `MemoStore.add`."""
        standing = []
        with self._errors("write to"), self._transaction():
            for record in records:
                key = (self._fingerprint, record.kind, record.state, record.first, record.stop)
                added = self._db.execute(
                    "INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?)", (*key, record.value)
                ).rowcount
                if added:
                    standing.append(record)
                    continue
                (value,) = self._db.execute(
                    "SELECT value FROM scores WHERE fingerprint = ? AND kind = ? AND state = ? "
                    "AND first = ? AND stop = ?",
                    key,
                ).fetchone()
                standing.append(Record(record.state, record.kind, record.first, record.stop, value))
        return standing

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

    def _open(self) -> None:
        """Check whose file it is, and make the table if it is new; never alters a foreign file."""
        self._check_owner()
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():  # another process may be making it at this moment
            if not self._tables():
                self._db.execute(_CREATE)
                self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {FORMAT}")
        (state,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise MemoError(f"the memo {self._path} is corrupted: {state}; nothing was changed")

    def _check_owner(self) -> None:
        tables = self._tables()
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if not tables and application == 0:
            return
        if application != APPLICATION or tables != {"scores"}:
            raise MemoError(f"{self._path} is a SQLite file but not a memo of headsearch")
        if version != FORMAT:
            raise MemoError(
                f"the memo {self._path} must be of format {FORMAT} but is of format {version}"
            )

    def _tables(self) -> set[str]:
        rows = self._db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name for (name,) in rows}

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
        """Turn SQLite's errors into one clear line."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorname", "")
            if code.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                text = (
                    f"the memo {self._path} is corrupted or no memo: {error}; nothing was changed"
                )
            elif code.startswith("SQLITE_FULL"):
                text = (
                    f"could not write to the memo {self._path}: the disk is full; all scores "
                    "committed before are kept"
                )
            elif code.startswith("SQLITE_BUSY"):
                text = (
                    f"the memo {self._path} was locked by another process for "
                    f"{TIMEOUT_SECONDS:.0f} s"
                )
            else:
                text = f"could not {action} the memo {self._path}: {error}"
            raise MemoError(text) from None
