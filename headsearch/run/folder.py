"""The run folder: its JSON files are written aside and renamed, so none is ever half there.

The transcript grows by whole lines, and the memo by transactions.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from headsearch import __version__
from headsearch.errors import FolderTakenError, RunFolderError, StorageError
from headsearch.heads import HeadMap
from headsearch.run.config import RunConfig

FORMAT = 1
CONFIG, MEMO, TRANSCRIPT = "config.json", "memo.sqlite", "transcript.jsonl"
RESULT, MASK, PROGRESS = "result.json", "mask.json", "progress.json"
CERTIFIED_MASK, WEIGHT = "certified_mask.json", "weight.json"
# What of a configuration may be a file or folder.
PATHS = ("model", "data", "certify_data")


class RunFolder:
    """A folder with the files of the contract."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def memo(self) -> Path:
        """Where the scores are: in the folder, unless the run was told otherwise."""
        return self.memo_elsewhere or self.path / MEMO

    @property
    def memo_elsewhere(self) -> Path | None:
        """The memo that the run was told to share, if any."""
        written = (self.read_json(CONFIG) or {}).get("memo")
        return None if written is None else Path(written)

    @classmethod
    def create(
        cls,
        path: Path,
        config: RunConfig,
        fingerprint: str,
        memo: Path | None = None,
        weights: str | None = None,
    ) -> RunFolder:
        """Make a new run folder with its `config.json`.

        Args:
            path: the folder.
            config: what is asked.
            fingerprint: of model and data.
            memo: where the scores are, if not in the folder.
            weights: a fingerprint of the model's weights alone.

        Raises:
            FolderTakenError: there is something at the path already.
            StorageError: it can't be written.
        """
        check_free(path)
        with writing(path):
            path.mkdir(parents=True)
        folder = cls(path)
        try:
            folder.write_config(config, fingerprint, memo, weights)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run folder.

        Raises:
            RunFolderError: there is none, or it is of a newer format.
        """
        if not path.is_dir():
            raise RunFolderError(f"run folder not found: {path}")
        folder = cls(path)
        written = folder.read_json(CONFIG)
        if written is None:
            raise RunFolderError(f"not a run folder: {path} has no {CONFIG}")
        if written.get("format") != FORMAT:
            raise RunFolderError(
                f"{path / CONFIG} must have format {FORMAT} but has {written.get('format')!r}"
            )
        return folder

    def config(self) -> tuple[RunConfig, str]:
        """Return what the run was asked, and the fingerprint of its model and data.

        Files that are not here are looked for where the run was started.
        """
        written = self.read_json(CONFIG) or {}
        asked = dict(written.get("asked", {}))
        began = written.get("directory")  # runs of earlier versions have none
        for name in PATHS:
            value = asked.get(name)
            if isinstance(value, str) and isinstance(began, str) and not os.path.exists(value):
                there = os.path.join(began, value)
                asked[name] = there if os.path.exists(there) else value
        return RunConfig.from_json(asked), str(written.get("fingerprint"))

    @property
    def weights(self) -> str | None:
        """The fingerprint of the model's weights; runs of earlier versions have none."""
        return (self.read_json(CONFIG) or {}).get("weights")

    def check_weights(self, found: str) -> None:
        """Refuse a model that is not the one that was searched.

        Args:
            found: the fingerprint of its weights.

        Raises:
            RunFolderError: it is another.
        """
        if self.weights not in (None, found):
            raise RunFolderError(f"the model's weights differ from those that {self.path} searched")

    def answers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the contents of `result.json` and `mask.json`.

        Raises:
            RunFolderError: the run is not done, or they are of two searches.
        """
        result, mask = self.read_json(RESULT), self.read_json(MASK)
        if result is None or mask is None:
            lacking = RESULT if result is None else MASK
            raise RunFolderError(f"{self.path} has no {lacking} yet: the run is not done")
        if not are_alike(result, mask):
            raise RunFolderError(
                f"{MASK} and {RESULT} of {self.path} are not of the same heads; "
                f"`headsearch resume {self.path}` writes both anew"
            )
        return result, mask

    def write_config(
        self,
        config: RunConfig,
        fingerprint: str,
        memo: Path | None = None,
        weights: str | None = None,
    ) -> None:
        """Write `config.json`; see `create`."""
        asked = {
            "format": FORMAT,
            "headsearch": __version__,
            "fingerprint": fingerprint,
            "weights": weights,
            "memo": None if memo is None else str(memo.absolute()),
            "directory": os.getcwd(),
            "asked": config.to_json(),
        }
        self.write_json(CONFIG, asked)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file aside and rename it into place."""
        place = self.path / name
        aside = self.path / f".{name}.{os.getpid()}"
        with writing(place):
            try:
                with aside.open("w", encoding="utf-8") as file:
                    json.dump(value, file, indent=1, allow_nan=False)
                    file.write("\n")
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(place)
            finally:
                aside.unlink(missing_ok=True)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file of the folder; None if it is not there.

        Raises:
            RunFolderError: it is there but is not a JSON object.
        """
        place = self.path / name
        try:
            value = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{place} can't be read: {error}") from None
        if not isinstance(value, dict):
            raise RunFolderError(f"{place} must hold a JSON object")
        return value

    def progress(self) -> dict[str, Any]:
        """Return the content of `progress.json`.

        Raises:
            RunFolderError: there is none yet.
        """
        progress = self.read_json(PROGRESS)
        if progress is None:
            raise RunFolderError(
                f"{self.path} has no {PROGRESS} yet: the run has not started to search"
            )
        return progress

    def progress_age(self) -> float:
        """Return how many seconds ago `progress.json` was written, by this machine's clock."""
        return max(0.0, time.time() - (self.path / PROGRESS).stat().st_mtime)

    def remove(self, name: str) -> None:
        """Remove a file of the folder, if it is there."""
        with writing(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def claim(self) -> Transcript:
        """Claim the folder for this process, until what is returned is closed; see `Transcript`.

        Raises:
            RunFolderError: another process, on any machine that sees the folder, is working on it.
            StorageError: it can't be written.
        """
        return Transcript(self.path / TRANSCRIPT)


class Transcript:
    """`transcript.jsonl`: one line a committed step, on disk as soon as it is committed.

    Open, it is locked: two processes that write the files of one folder would spoil them. The lock
    goes with the process, however that ends. A file system without locks has none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            self._file = path.open("a", encoding="utf-8")
        if not _locked(self._file.fileno()):
            self._file.close()
            raise RunFolderError(
                f"one process at a time may work on a run folder but another one works on "
                f"{path.parent}: wait until it ends, or stop it"
            )

    def begin(self) -> None:
        """Start anew: a resumed run commits the same steps again from its memo."""
        with writing(self._path):
            self._file.truncate(0)

    def write(self, step: dict[str, Any]) -> None:
        """Add a step."""
        with writing(self._path):
            self._file.write(json.dumps(step, separators=(",", ":"), allow_nan=False) + "\n")
            self._file.flush()

    def __enter__(self) -> Transcript:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with writing(self._path):
            self._file.close()


def _locked(file: int) -> bool:
    """Lock an open file; False if another process has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # some network file systems say so
            return False
    return True


def are_alike(result: dict[str, Any], mask: dict[str, Any]) -> bool:
    """Whether a result and a mask are of the same heads, as far as they are whole.

    A process that ends between writing the one and the other leaves them of two searches.
    """
    shape, removed = HeadMap.from_mask(mask)
    if "best" not in result or shape.total != result.get("heads"):
        return True  # what is wrong there is said by who needs it
    return bool(shape.pairs(removed) == result["best"]["removed"])


def check_free(path: Path) -> None:
    """Raise FolderTakenError if there is something at the path already."""
    if path.exists() or path.is_symlink():
        hint = f" (go on with it by `headsearch resume {path}`)" if (path / CONFIG).exists() else ""
        raise FolderTakenError(f"the run folder must not exist yet: {path}{hint}")


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn a failed write (disk full, no right to) into one clear error."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"could not write {place}: {error.strerror or error}") from None
