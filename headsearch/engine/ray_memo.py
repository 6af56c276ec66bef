"""The memo on a cluster: one named actor owns the SQLite files of all searches.

It runs on the machine of the search that came first, and whoever comes next finds it by name. Each
search has its own file in its own run folder, so that the folder is whole by itself; scores that
another search of the same fingerprint has are copied when they are asked for. What was stored is
on disk, so if the actor dies, the next call starts another, and what was not confirmed is sent
again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import msgpack
import ray
from ray import exceptions as ray_exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from headsearch.engine.ray_cluster import NAMESPACE
from headsearch.errors import MemoError
from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import Block, Record

# The number is the protocol's: versions that differ in it have actors of their own.
ACTOR = "headsearch memo 1"
# Stores that may be unconfirmed; a search waits for the oldest when there are more.
UNCONFIRMED = 32
# How long a search tries to find or start the actor again.
RETRY_SECONDS = 120.0


def pack(rows: Sequence[Record] | Sequence[Block]) -> bytes:
    """Return records or blocks as one msgpack value: Ray would pickle each by itself."""
    return bytes(msgpack.packb(rows))


def unpack_records(packed: bytes) -> list[Record]:
    """Return the records that `pack` packed."""
    return [Record(*row) for row in msgpack.unpackb(packed)]


def unpack_blocks(packed: bytes) -> list[Block]:
    """Return the blocks that `pack` packed."""
    return [
        Block(kind, first, stop, tuple(states), head, data)
        for kind, first, stop, states, head, data in msgpack.unpackb(packed)
    ]


def _file(path: str) -> tuple[int, int]:
    """Return which file is at a path, by device and inode; zeros where there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


class MemoActor:
    """Owns the stores. Only bytes, numbers and text reach it."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str], SqliteStore] = {}
        self._files: dict[tuple[str, str], tuple[int, int]] = {}  # which file each has open

    def __repr__(self) -> str:
        return ACTOR

    def open(self, path: str, fingerprint: str, sign: str) -> str | None:
        """Open a search's store; return what is wrong, if anything."""
        if not os.path.exists(sign):
            node = ray.util.get_node_ip_address()
            return (
                f"the folder {Path(path).parent} can't be seen from {node}, where the memo of the "
                "cluster's searches runs; put run folders on storage that all machines share"
            )
        key = path, fingerprint
        if key in self._stores and self._files[key] != _file(path):
            # Its search was killed, and its folder removed since: what is there now is another.
            self.close(path, fingerprint)
        if key not in self._stores:
            try:
                self._stores[key] = SqliteStore(Path(path), fingerprint)
            except MemoError as error:
                return str(error)
            self._files[key] = _file(path)
        return None

    def find(self, path: str, fingerprint: str, kind: str, states: list[bytes]) -> bytes:
        """Return all records of states, of this search and of others with its fingerprint."""
        own = self._stores[path, fingerprint]
        found = own.find(kind, states)
        new: list[Record] = []
        for (other, theirs), store in self._stores.items():
            if theirs != fingerprint or other == path:
                continue
            try:
                held = store.find(kind, states)
            except MemoError:
                continue  # that search will say so itself
            for state, records in held.items():
                spans = {(r.first, r.stop) for r in found.get(state, [])}
                more = [r for r in records if (r.first, r.stop) not in spans]
                found.setdefault(state, []).extend(more)
                new += more
        if new:
            own.add([Block(r.kind, r.first, r.stop, (r.state,), b"", r.value) for r in new])
        return pack([record for records in found.values() for record in records])

    def spans(
        self, path: str, fingerprint: str, kind: str, states: list[bytes]
    ) -> dict[bytes, list[tuple[int, int]]]:
        """Return what batches are there of states, of all searches with the fingerprint."""
        found: dict[bytes, list[tuple[int, int]]] = {}
        for (_, theirs), store in self._stores.items():
            if theirs != fingerprint:
                continue
            with contextlib.suppress(MemoError):  # that search will say so itself
                for state, spans in store.spans(kind, states).items():
                    found.setdefault(state, []).extend(spans)
        return found

    def add(self, path: str, fingerprint: str, packed: bytes) -> None:
        """Store blocks in one transaction."""
        self._stores[path, fingerprint].add(unpack_blocks(packed))

    def count(self, path: str, fingerprint: str) -> int:
        """Return how many records a search has."""
        return self._stores[path, fingerprint].count()

    def close(self, path: str, fingerprint: str) -> None:
        """Close a search's store."""
        store = self._stores.pop((path, fingerprint), None)
        if store is not None:
            store.close()

    def pid(self) -> int:
        """Return the actor's process id."""
        return os.getpid()


class RayMemo:
    """A search's side of the actor; see `MemoStore`. Ray must be connected.

    Args:
        path: the search's own file.
        fingerprint: as for `SqliteStore`.

    Raises:
        MemoError: the file can't be used, or not be seen from where the actor is.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path.absolute()
        self._fingerprint = fingerprint
        self._unconfirmed: deque[tuple[Any, bytes]] = deque()
        self._actor: Any = None
        self._closed = False
        self._retry(lambda: None)

    def find(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[Record]]:
        """See `MemoStore.find`."""
        found: dict[bytes, list[Record]] = {}
        for record in unpack_records(self._call("find", kind, list(states))):
            found.setdefault(record.state, []).append(record)
        return {s: sorted(rows, key=lambda r: (r.first, r.stop)) for s, rows in found.items()}

    def spans(self, kind: str, states: Sequence[bytes]) -> dict[bytes, list[tuple[int, int]]]:
        """See `MemoStore.spans`."""
        found: dict[bytes, list[tuple[int, int]]] = self._call("spans", kind, list(states))
        return {state: sorted(spans) for state, spans in found.items()}

    def add(self, blocks: Sequence[Block]) -> None:
        """See `MemoStore.add`; may return before it is on disk. `close` waits for everything."""
        if not blocks:
            return
        self._send(pack(blocks))
        self._confirm(UNCONFIRMED)

    def count(self) -> int:
        """See `MemoStore.count`."""
        return int(self._call("count"))

    def close(self) -> None:
        """See `MemoStore.close`."""
        if self._closed:
            return
        self._closed = True
        if self._actor is None:  # it could not be reached, which was said
            return
        self._confirm(0)
        with contextlib.suppress(ray_exceptions.RayError):
            ray.get(self._actor.close.remote(str(self._path), self._fingerprint))

    def actor_pid(self) -> int:
        """Return the process id of the actor."""
        return int(ray.get(self._actor.pid.remote()))

    def _send(self, packed: bytes) -> None:
        reference = self._actor.add.remote(str(self._path), self._fingerprint, packed)
        self._unconfirmed.append((reference, packed))

    def _confirm(self, most: int) -> None:
        """Wait until at most so many stores are unconfirmed; take note of all that are done."""
        while self._unconfirmed:
            wait = len(self._unconfirmed) > most
            reference = self._unconfirmed[0][0]
            ready, _ = ray.wait([reference], timeout=None if wait else 0)
            if not ready:
                return
            self._retry(lambda: ray.get(self._unconfirmed[0][0]))
            self._unconfirmed.popleft()

    def _call(self, method: str, *arguments: Any) -> Any:
        def once() -> Any:
            call = getattr(self._actor, method)
            return ray.get(call.remote(str(self._path), self._fingerprint, *arguments))

        return self._retry(once)

    def _retry(self, once: Any) -> Any:
        """Do something with the actor; if it is gone, with another that has all records."""
        deadline = monotonic() + RETRY_SECONDS
        while True:
            try:
                if self._actor is None:
                    self._reach()
                return once()
            except ray_exceptions.RayTaskError as error:
                cause = error.cause
                if not isinstance(cause, KeyError):
                    raise MemoError(str(cause)) from None
                self._actor = None  # a new actor, started by another search
            except (ray_exceptions.RayError, ValueError) as error:  # ValueError: being replaced
                self._actor = None
                if monotonic() > deadline:
                    line = str(error).strip().splitlines()[0]
                    raise MemoError(f"the cluster's memo can't be started again: {line}") from None
                sleep(0.2)

    def _reach(self) -> None:
        here = ray.get_runtime_context().get_node_id()
        actor = (
            ray.remote(MemoActor)
            .options(
                name=ACTOR,
                namespace=NAMESPACE,
                get_if_exists=True,
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
            )
            .remote()
        )
        sign = self._path.parent / f".visible.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            sign.touch()
        except OSError as error:
            raise MemoError(f"could not write {sign.parent}: {error.strerror}") from None
        try:
            wrong = ray.get(actor.open.remote(str(self._path), self._fingerprint, str(sign)))
        finally:
            sign.unlink(missing_ok=True)
        if wrong is not None:
            raise MemoError(wrong)
        self._actor = actor
        for _ in range(len(self._unconfirmed)):
            self._send(self._unconfirmed.popleft()[1])
