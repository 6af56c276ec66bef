"""The memo actor of a cluster, called as what it is: an object."""

from __future__ import annotations

import shutil
from pathlib import Path

from headsearch.engine.ray_memo import MemoActor, pack
from headsearch.memo.sqlite import SqliteStore
from headsearch.memo.store import Block


def blocks(state: bytes) -> bytes:
    return pack([Block("outputs", 0, 1, (state,), b"", b"value")])


def test_a_folder_that_was_removed_and_made_again_has_a_memo_of_its_own(
    tmp_path: Path,
) -> None:
    actor, run = MemoActor(), tmp_path / "run"
    for state in (b"a", b"b"):
        run.mkdir()
        path = str(run / "memo.sqlite")
        assert actor.open(path, "f", str(run)) is None
        assert actor.open(path, "f", str(run)) is None  # by the same search: nothing changes
        actor.add(path, "f", blocks(state))
        found = SqliteStore(run / "memo.sqlite", "f")
        assert set(found.find("outputs", [b"a", b"b"])) == {state}
        found.close()
        if state == b"a":
            shutil.rmtree(run)  # the search was killed, and so closed nothing
