"""Folders that are written aside and renamed: there is never a half-written one."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from headsearch.errors import ModelError, StorageError


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes `folder` when all went well, else nothing.

    Raises:
        ModelError: there is something at `folder` already.
        StorageError: it could not be written.
    """
    target = Path(folder)
    check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    except OSError as error:
        raise StorageError(f"could not write {target}: {first_line(error)}") from None
    try:
        yield aside
        aside.chmod(0o755)  # mkdtemp keeps everybody else out
        aside.rename(target)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"could not write {target}: {first_line(error)}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_free(target: Path) -> None:
    """Raise ModelError if there is something at the path already."""
    if target.exists() or target.is_symlink():
        raise ModelError(f"the folder to save to must not exist yet: {target}")


def first_line(error: BaseException) -> str:
    """Return an error's first line of text."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
