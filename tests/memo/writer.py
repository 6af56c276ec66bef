"""A process that writes to a memo, to be killed or raced: `python writer.py PATH NAME BATCHES`.

It prints `ready` before it opens the memo and waits for a line, then, for every batch that was
committed, the batch's number and who had written what stands there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import Block

PER_BATCH = 3


def states(batch: int) -> list[bytes]:
    return [(batch * PER_BATCH + i + 1).to_bytes(3, "big") for i in range(PER_BATCH)]


def value(name: str, state: bytes) -> bytes:
    """A few bytes to many pages, so that commits of all sizes are interrupted."""
    number = int.from_bytes(state, "big")
    return f"{name}:".encode() + state * (1 + number * 7919 % 6000)


def main(path: str, name: str, batches: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    store = SqliteStore(Path(path), "fingerprint")
    for batch in range(int(batches)):
        store.add([Block("outputs", 0, 1, (s,), b"", value(name, s)) for s in states(batch)])
        found = store.find("outputs", states(batch))
        standing = [found[state][0] for state in states(batch)]
        print(batch, *(r.value.split(b":")[0].decode() for r in standing), flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
