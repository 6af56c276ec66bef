"""What is written of a pair, and its plain metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from headsearch.model.checkpoint import load_model
from headsearch.task.batches import tokenise
from headsearch.task.data import examples_from_rows
from headsearch.task.metric import make_objective


def write(
    folder: Path,
    about: Mapping[str, Any],
    pool: pd.DataFrame,
    test: pd.DataFrame | None,
) -> dict[str, Any]:
    """Write the tables and `pair.json` beside `folder/model`, and return what the latter says.

    The model is read back by the way that a run takes, which also checks that its tokenizer knows
    the texts. Its metric is stated on the pool and, if there is one, on the fixed test split.
    """
    tables = {"pool": pool, "test": test}
    stated: dict[str, Any] = dict(about)
    stated["rows"] = {name: len(rows) for name, rows in tables.items() if rows is not None}
    stated["plain"] = {}
    for name, rows in tables.items():
        if rows is not None:
            rows.to_csv(folder / f"{name}.csv", index=False)
            stated["plain"][name] = round(
                plain_metric(folder / "model", rows, about["metric"], about["max_length"]), 4
            )
    (folder / "pair.json").write_text(json.dumps(stated, indent=1) + "\n")
    return stated


def outputs(model: torch.nn.Module, data: Any) -> np.ndarray:
    """Return the outputs of the stock forward, (examples, classes) float32, in batch order."""
    found = []
    with torch.inference_mode():
        for batch in data.batches:
            inputs = {name: torch.from_numpy(array) for name, array in batch.arrays.items()}
            found.append(model(**inputs).logits.numpy())
    return np.concatenate(found)


def plain_metric(folder: Path, rows: pd.DataFrame, metric: str, max_length: int) -> float:
    """Return what the unpruned model scores on labelled rows."""
    model, tokenizer = load_model(str(folder))
    settings: Any = model.config
    examples = examples_from_rows(
        {"text": rows["text"].tolist(), "label": rows["label"].tolist()},
        id2label=settings.id2label,
        classes=settings.num_labels,
    )
    data = tokenise(examples, tokenizer, max_length=max_length)
    objective = make_objective(metric, data.labels, settings.num_labels)
    return float(objective.score(outputs(model, data)).metric)
