"""Collects what a report of a finished run says; the answers that changed are computed anew."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from headsearch.errors import HeadsearchError, RunFolderError
from headsearch.heads import HeadSet
from headsearch.model.checkpoint import load_model
from headsearch.model.plain import plain_outputs
from headsearch.run.config import RunConfig
from headsearch.run.folder import CONFIG, RESULT, TRANSCRIPT, RunFolder
from headsearch.run.prepare import load_data, make_task
from headsearch.task.data import Examples
from headsearch.task.holdout import hold_out
from headsearch.task.metric import finite_rows
from headsearch.task.readout import EXAMPLES

LATENCY = "latency.json"
# Changed examples that a report lists, and characters of each text.
MOST_CHANGED, MOST_CHARACTERS = 200, 500
# In place of a class where an output is not finite.
NO_ANSWER = -1


def gather(path: Path, with_examples: bool = True, map_by: str | None = None) -> dict[str, Any]:
    """Return what a report is made of.

    Args:
        path: the folder of a finished run.
        with_examples: score the full and the pruned model by the plain forward, to tell what
            changed for each class and example; texts of the data are then part of the report.
        map_by: FILE.py:FUNCTION that the run's data went through, see `task.mapping`.

    Returns:
        `name`, and the contents of `config.json`, `result.json`, `mask.json`, the steps of
        `transcript.jsonl`, `latency` if it was measured, the `command` that repeats the run, and
        `changes`, see `changed_answers`, or {"missing": reason}.

    Raises:
        RunFolderError: there is no such run, it is not finished, or what it found last and what it
            did since are of two searches: it was gone on with, and that has not come to its end.
        InputError: `map_by` is to be given, or is not; see `RunConfig.allowing`.
    """
    folder = RunFolder.open(path)
    config, fingerprint = folder.config()
    result, mask = folder.answers()
    steps = _steps(path / TRANSCRIPT)
    if not steps or steps[-1]["evaluations"] != result["evaluations"]:
        raise RunFolderError(
            f"{TRANSCRIPT} and {RESULT} of {path} are not of the same search; "
            f"`headsearch resume {path}` writes both anew"
        )
    changes: dict[str, Any] = {"missing": "they were not asked for"}
    if with_examples:
        allowed = config.allowing(map_by)
        try:
            changes = changed_answers(allowed, fingerprint, mask)
        except HeadsearchError as error:  # model or data may have moved since
            changes = {"missing": str(error)}
    return {
        "name": path.resolve().name,
        "config": folder.read_json(CONFIG),
        "result": result,
        "mask": mask,
        "steps": steps,
        "latency": folder.read_json(LATENCY),
        "command": command_line(config),
        "changes": changes,
    }


def command_line(config: RunConfig) -> str:
    """Return the command that asks for what a configuration holds, quoted for a shell."""
    words = ["headsearch", "run", config.model]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name != "model" and value != field.default:
            words += ["--" + field.name.replace("_", "-"), str(value)]
    return shlex.join(words)


def changed_answers(config: RunConfig, fingerprint: str, mask: dict[str, Any]) -> dict[str, Any]:
    """Return how the answers on the search split changed, by the plain forward.

    Args:
        config: what the run was asked.
        fingerprint: of the model and data that it began with.
        mask: the heads that are removed.

    Returns:
        `examples`, `worse`, `better` and `other` (wrong before and after, in another way), how
        many there are of each; `classes`, with the name, examples and right answers before and
        after of each; `changed`, at most `MOST_CHANGED` examples: those that turned wrong first.

    Raises:
        HeadsearchError: model or data are gone, have changed, or have no classes, or what has them
            is not an example.
    """
    model, tokenizer = load_model(config.model)
    examples = load_data(config, model)
    if config.certify_fraction is not None:
        examples, _ = hold_out(examples, config.certify_fraction, config.seed)
    searched = dataclasses.replace(
        config, certify_data=None, certify_split=None, certify_fraction=None
    )
    task = make_task(model, tokenizer, examples, searched)
    if task.fingerprint != fingerprint:
        raise RunFolderError("model, data or library versions differ from those of the run")
    if task.data.kind != EXAMPLES:
        raise RunFolderError(
            f"answers are compared where each example has one class, not where {task.data.kind} "
            "are scored"
        )
    settings: Any = model.config
    if settings.num_labels == 1:
        raise RunFolderError("the model has one output and no classes")
    source = np.argsort(task.data.order)  # rows in the order of the source

    def answers(heads: HeadSet) -> np.ndarray:
        outputs = plain_outputs(task.model, task.data.batches, heads)
        return np.where(finite_rows(outputs), outputs.argmax(axis=1), NO_ANSWER)[source]

    before, after = answers(HeadSet()), answers(task.shape.from_mask_for(mask))
    names = {**settings.id2label, NO_ANSWER: "not a number"}
    return _compare(examples, before, after, names)


def _compare(
    examples: Examples, before: np.ndarray, after: np.ndarray, names: dict[int, str]
) -> dict[str, Any]:
    """Say what changed; answers are class ids, (examples,) in source order."""
    labels = examples.labels
    kinds = np.where(before == labels, "worse", np.where(after == labels, "better", "other"))
    changed = np.flatnonzero(before != after)
    listed = [i for kind in ("worse", "better", "other") for i in changed if kinds[i] == kind]
    return {
        "examples": len(labels),
        **{kind: int((kinds[changed] == kind).sum()) for kind in ("worse", "better", "other")},
        "classes": [
            {
                "name": names.get(label, str(label)),
                "examples": int((labels == label).sum()),
                "before": int(((labels == label) & (before == label)).sum()),
                "after": int(((labels == label) & (after == label)).sum()),
            }
            for label in np.unique(labels).tolist()
        ],
        "changed": [
            {
                "kind": str(kinds[i]),
                "text": _said(examples.texts[i], i),
                "pair": None if examples.pairs is None else _said(examples.pairs[i], i),
                **{
                    what: names.get(int(ids[i]), str(ids[i]))
                    for what, ids in (("label", labels), ("before", before), ("after", after))
                },
            }
            for i in map(int, listed[:MOST_CHANGED])
        ],
    }


def _said(given: str | np.ndarray, place: int) -> str:
    """Return what a report shows of an example: its text, or which image it was."""
    if not isinstance(given, str):
        height, width = given.shape[:2]
        return f"search example {place + 1}: an image of {width} x {height}"
    text = given
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"


def _steps(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} can't be read: {error}") from None
