"""`run`, `resume` and `verify` as functions: what the command line and the demo call."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headsearch.errors import HeadsearchError, InputError, ModelError, RunFolderError
from headsearch.heads import HeadSet
from headsearch.run import engines
from headsearch.run.config import RunConfig
from headsearch.run.folder import (
    CERTIFIED_MASK,
    MASK,
    PROGRESS,
    RESULT,
    TRANSCRIPT,
    WEIGHT,
    RunFolder,
    check_free,
)
from headsearch.run.prepare import Task, load_task
from headsearch.run.session import Outcome, Watcher, run_search
from headsearch.run.verify import plain_score
from headsearch.run.weighing import weigh
from headsearch.search.weight import HEADS, Weight

# Seconds between two writings of progress.json while nothing is committed.
PROGRESS_INTERVAL = 5.0


def start(config: RunConfig, out: Path, watcher: Watcher, memo: Path | None = None) -> Outcome:
    """Check everything, make the run folder, search, and write the results.

    Args:
        config: what is asked.
        out: the run folder; must not exist yet.
        watcher: told of progress.
        memo: a file to share scores with other runs; default: the folder's own.

    Raises:
        HeadsearchError: anything that is wrong; before the search starts nothing is left behind.
    """
    check_free(out)
    if memo is not None and not memo.parent.is_dir():
        raise InputError(f"the folder of the memo must exist: {memo.parent}")
    task = load_task(config)
    choice = engines.choose(config, task)
    folder = RunFolder.create(
        out, config, task.fingerprint, memo, task.bundle.weights_fingerprint()
    )
    try:
        return _search(task, config, choice, folder, watcher)
    except HeadsearchError as error:
        transcript = out / TRANSCRIPT
        # The search did not start, or found at once that there is nothing to compare with.
        begun = transcript.exists()
        if not begun or (isinstance(error, ModelError) and not transcript.stat().st_size):
            shutil.rmtree(out, ignore_errors=True)
        raise


def resume(folder: RunFolder, changes: dict[str, Any], watcher: Watcher) -> Outcome:
    """Go on with a run, with changed budgets if asked; every score in its memo is used.

    Confidence and certify data may change too: neither has a part in the search.

    Raises:
        RunFolderError: model or data are no longer what the run began with.
    """
    config, fingerprint = folder.config()
    config = dataclasses.replace(config.allowing(changes.get("map")), **changes)
    task = load_task(config)
    if task.fingerprint != fingerprint:
        raise RunFolderError(
            f"model, data or library versions differ from those that {folder.path} began with; "
            "start a new run"
        )
    choice = engines.choose(config, task)
    folder.write_config(
        config, fingerprint, folder.memo_elsewhere, task.bundle.weights_fingerprint()
    )
    return _search(task, config, choice, folder, watcher)


def _search(
    task: Task,
    config: RunConfig,
    choice: engines.Choice,
    folder: RunFolder,
    watcher: Watcher,
) -> Outcome:
    saves = _weight(task, config, folder)  # before workers keep the machine busy
    workers = engines.start(choice, config, task)
    try:
        store = engines.open_memo(workers, folder.memo, task.fingerprint)
        try:
            progress = _ProgressFile(folder, watcher)
            try:
                with folder.transcript() as transcript:
                    outcome = run_search(
                        task,
                        config,
                        workers,
                        store,
                        saves=saves,
                        watcher=progress,
                        on_step=transcript.write,
                    )
                folder.write_json(MASK, outcome.mask)
                if outcome.certified_mask is None:  # one of another confidence may be there
                    folder.remove(CERTIFIED_MASK)
                else:
                    folder.write_json(CERTIFIED_MASK, outcome.certified_mask)
                folder.write_json(RESULT, outcome.result)
                progress.write("done")
            except KeyboardInterrupt:
                progress.write("interrupted")
                raise
            except Exception:
                progress.write("failed")
                raise
        finally:
            store.close()
    finally:
        workers.close()
    return outcome


def _weight(task: Task, config: RunConfig, folder: RunFolder) -> Weight:
    """Return what removing heads saves: what was measured when the run began, if it was."""
    written = folder.read_json(WEIGHT)
    if written is not None:
        return Weight.from_json(written, task.shape)
    saves = weigh(task, config)
    if saves.kind != HEADS:
        folder.write_json(WEIGHT, saves.to_json())
    return saves


class _ProgressFile:
    """Keeps `progress.json` up to date, which `headsearch status` reads, and passes all on."""

    def __init__(self, folder: RunFolder, watcher: Watcher) -> None:
        self._folder, self._watcher = folder, watcher
        self._values: dict[str, Any] = {}
        self._written = -math.inf

    def on_progress(self, values: dict[str, Any]) -> None:
        """See `Watcher`."""
        committed = any(values[name] != self._values.get(name) for name in ("step", "kind"))
        self._values = values
        self._watcher.on_progress(values)
        if committed or time.monotonic() - self._written >= PROGRESS_INTERVAL:
            self.write("running")

    def write(self, state: str) -> None:
        """Write the file; a search that did not start has none."""
        if self._values:
            self._written = time.monotonic()
            self._folder.write_json(PROGRESS, {"state": state, **self._values})


def verify(target: Path, data: str | None = None, map_by: str | None = None) -> dict[str, Any]:
    """Score a run's mask, or a model, by the plain path alone.

    Args:
        target: a run folder, or a model folder (then `data` is needed).
        data: other data than the run's, with the same columns; the threshold is then taken
            from the full model's metric on that data.
        map_by: FILE.py:FUNCTION that the data go through, see `task.mapping`.

    Returns:
        JSON values: metric, examples, baseline and pruned score, threshold, whether it is met.

    Raises:
        HeadsearchError: the target is neither, or the data can't be used.
    """
    if (target / "config.json").is_file() and "asked" in _json(target / "config.json"):
        folder = RunFolder.open(target)
        mask = folder.read_json(MASK)
        if mask is None:
            raise RunFolderError(f"{target} has no {MASK} yet: the run is not done")
        # The certify split has had its say.
        config = dataclasses.replace(folder.config()[0].allowing(map_by), certify_data=None)
        if data is not None:
            config = dataclasses.replace(
                config, data=data, max_examples=None, certify_fraction=None
            )
        return _verify_mask(config, mask)
    if data is None:
        raise InputError(f"{target} is not a run folder; a model needs --data to be verified on")
    config = RunConfig(model=str(target), data=data, map=map_by)
    task = load_task(config)
    score = plain_score(task.model, task.data, task.objective, HeadSet())
    return {
        "metric": config.metric,
        "examples": task.data.examples,
        "heads": task.shape.total,
        "model": dataclasses.asdict(score),
    }


def _verify_mask(config: RunConfig, mask: dict[str, Any]) -> dict[str, Any]:
    task = load_task(config)
    removed = task.shape.from_mask_for(mask)
    before, after = (
        plain_score(task.model, task.data, task.objective, heads) for heads in (HeadSet(), removed)
    )
    threshold = task.objective.threshold(before, config.max_drop)
    return {
        "metric": config.metric,
        "max_drop": config.max_drop,
        "examples": task.data.examples,
        "heads": task.shape.total,
        "heads_removed": len(removed),
        "baseline": dataclasses.asdict(before),
        "pruned": dataclasses.asdict(after),
        "threshold": threshold.value,
        "verified": threshold.feasible(after),
    }


def _json(path: Path) -> Sequence[Any] | dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value
