"""`run`, `resume` and `verify` as functions: what the command line and the demo call."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from headsearch.errors import (
    HeadsearchError,
    InputError,
    ModelError,
    RunFolderError,
    StorageError,
)
from headsearch.heads import HeadSet
from headsearch.model.checkpoint import load_model
from headsearch.model.families import kind_of
from headsearch.run import engines
from headsearch.run.config import RunConfig, inherited
from headsearch.run.folder import (
    CERTIFIED_MASK,
    MASK,
    PROGRESS,
    RESULT,
    TRANSCRIPT,
    WEIGHT,
    RunFolder,
    Transcript,
    are_alike,
    check_free,
)
from headsearch.run.points import operating_point
from headsearch.run.prepare import Task, check_parts, classes_of, load_data, load_task, make_task
from headsearch.run.session import Outcome, Watcher, run_search, score_json
from headsearch.run.verify import plain_score
from headsearch.run.weighing import weigh
from headsearch.search.ledger import finite
from headsearch.search.weight import HEADS, Weight
from headsearch.task.metric import metrics_for

# What a result claims, and a resumed run may change.
CLAIMED = ("max_drop", "confidence", "certify_data", "certify_split", "certify_fraction")
# Seconds between two writings of progress.json while nothing is committed.
PROGRESS_INTERVAL = 5.0
# What of other data than a run's is told where its mask is verified on them.
OF_DATA = ("subset", "split")


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
    check_parts(config)
    task = load_task(config)
    choice = engines.choose(config, task)
    folder = RunFolder.create(
        out, config, task.fingerprint, memo, task.bundle.weights_fingerprint()
    )
    try:
        with folder.claim() as transcript:
            return _search(task, config, choice, folder, transcript, watcher)
    except HeadsearchError as error:
        # The search did not start, or found at once that there is nothing to compare with.
        begun = (out / PROGRESS).exists()
        if not begun or (isinstance(error, ModelError) and not (out / TRANSCRIPT).stat().st_size):
            shutil.rmtree(out, ignore_errors=True)
        raise


def resume(folder: RunFolder, changes: dict[str, Any], watcher: Watcher) -> Outcome:
    """Go on with a run, with changed budgets if asked; every score in its memo is used.

    Confidence and certify data may change too: neither has a part in the search. Where what is
    claimed changes, the mask and result of before are removed first, so that none is ever there
    beside a `config.json` that asks something else; but not before the engine is up.

    Raises:
        RunFolderError: model or data are no longer what the run began with, or another process is
            working on the run.
    """
    with folder.claim() as transcript:
        before, fingerprint = folder.config()
        asked = inherited(before.allowing(changes.get("map")).to_json(), changes)
        config = RunConfig.from_json(asked)
        check_parts(config, changes)
        task = load_task(config)
        if task.fingerprint != fingerprint:
            raise RunFolderError(
                f"model, data or library versions differ from those that {folder.path} began "
                "with; start a new run"
            )
        choice = engines.choose(config, task)

        def renew() -> None:
            if any(getattr(config, name) != getattr(before, name) for name in CLAIMED):
                for name in (MASK, CERTIFIED_MASK, RESULT):
                    folder.remove(name)
            folder.write_config(
                config, fingerprint, folder.memo_elsewhere, task.bundle.weights_fingerprint()
            )

        return _search(task, config, choice, folder, transcript, watcher, renew)


def _search(
    task: Task,
    config: RunConfig,
    choice: engines.Choice,
    folder: RunFolder,
    transcript: Transcript,
    watcher: Watcher,
    renew: Callable[[], None] = lambda: None,
) -> Outcome:
    """Search and write the results; `renew` is called once all that a search needs is there."""
    saves = _weight(task, config, folder)  # before workers keep the machine busy
    workers = engines.start(choice, config, task)
    try:
        store = engines.open_memo(workers, folder.memo, task.fingerprint)
        try:
            progress = _ProgressFile(folder, watcher)
            try:
                renew()
                transcript.begin()
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
            except BaseException:  # an exit, too, or status would call it running
                with suppress(StorageError):  # what ended the search is what is to be said
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


def verify(
    target: Path,
    data: str | None = None,
    map_by: str | None = None,
    given: Mapping[str, Any] | None = None,
    point: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a run's mask, or a model, by the plain path alone.

    Args:
        target: a run folder, or a model folder (then `data` is needed).
        data: other data than the run's, with the same columns; the threshold is then taken
            from the full model's metric on that data.
        map_by: FILE.py:FUNCTION that the data go through, see `task.mapping`.
        given: other options of a `RunConfig`, of a model alone: a run's are known, but for subset
            and split of other data. By default its metric is the first that fits it.
        point: options of `points.operating_point`: another point of the run than the best.

    Returns:
        JSON values: metric, examples, baseline and pruned score, threshold, whether it is met; of a
        run's own data, whether all is as it was searched (`as_searched`); of a run's mask, whether
        it is of the heads that `result.json` tells of (`as_found`).

    Raises:
        HeadsearchError: the target is neither, has no such point or another model by now, or the
            data can't be used.
    """
    if (target / "config.json").is_file() and "asked" in _json(target / "config.json"):
        folder, of_data = RunFolder.open(target), {}
        for name, value in (given or {}).items():
            if name not in OF_DATA:
                raise InputError(
                    f"`{name}` must not be given with a run, which has its own: {target}"
                )
            of_data[name] = value
        if data is not None:
            of_data["data"] = data
        return _verify_run(folder, map_by, of_data, point or {})
    if point:
        raise InputError(f"{target} is not a run folder: a model has no points to choose from")
    if data is None:
        raise InputError(f"{target} is not a run folder; a model needs --data to be verified on")
    config = RunConfig(model=str(target), data=data, map=map_by, **(given or {}))
    check_parts(config)
    model, tokenizer = load_model(config.model)
    if "metric" not in (given or {}):
        kind = kind_of(model)
        config = dataclasses.replace(config, metric=metrics_for(classes_of(model, kind), kind)[0])
    task = make_task(model, tokenizer, load_data(config, model), config)
    score = plain_score(task.model, task.data, task.objective, HeadSet())
    return {
        "metric": config.metric,
        "examples": task.data.examples,
        "heads": task.shape.total,
        "model": score_json(score),
    }


def _verify_run(
    folder: RunFolder, map_by: str | None, of_data: Mapping[str, Any], point: Mapping[str, Any]
) -> dict[str, Any]:
    """Score a point of a run, on its own data or on that which `of_data` names."""
    mask, result = folder.read_json(MASK), folder.read_json(RESULT)
    if mask is None:
        raise RunFolderError(f"{folder.path} has no {MASK} yet: the run is not done")
    asked, fingerprint = folder.config()
    # The certify split has had its say.
    config = dataclasses.replace(asked.allowing(map_by), certify_data=None, certify_split=None)
    if of_data:
        config = dataclasses.replace(config, max_examples=None, certify_fraction=None, **of_data)
    check_parts(config, of_data)
    task = load_task(config)
    folder.check_weights(task.bundle.weights_fingerprint())
    removed = task.shape.from_mask_for(mask)
    if point:
        if result is None:
            raise RunFolderError(f"{folder.path} has no {RESULT} yet: the run is not done")
        removed = task.shape.from_pairs(operating_point(result, **point)["removed"])
    own = {} if of_data else {"as_searched": task.fingerprint == fingerprint}
    if not point and result is not None:
        own["as_found"] = are_alike(result, mask)
    return {**_verify_heads(config, task, removed), **own}


def _verify_heads(config: RunConfig, task: Task, removed: HeadSet) -> dict[str, Any]:
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
        "baseline": score_json(before),
        "pruned": score_json(after),
        "threshold": finite(threshold.value),
        "verified": threshold.feasible(after),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
