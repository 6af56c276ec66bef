"""The folder that every page speaks of, and what its Python blocks take for granted."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertModel, XLNetConfig, XLNetForSequenceClassification

import headsearch
from headsearch import cli
from headsearch.run import plan
from tests.calling import Done, caller
from tests.tiny import BERT_LIKE
from tests.words import save_folder, texts_and_labels, tiny_tokenizer, trained_model


def table(path: Path, **columns: Any) -> None:
    pd.DataFrame(columns).to_csv(path, index=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder once: a trained model, good data and bad, models that are refused, runs."""
    place = tmp_path_factory.mktemp("docs")
    model: Any = trained_model(max_position_embeddings=130)
    save_folder(place / "model", model)
    texts, labels = texts_and_labels(150, 2)
    table(place / "dev.csv", text=texts, label=labels)
    fresh = {t: label for t, label in zip(*texts_and_labels(90, 3), strict=True) if t not in texts}
    table(place / "held_out.csv", text=list(fresh), label=list(fresh.values()))
    table(
        place / "raw.csv",
        title=[text.split()[0] for text in texts],
        body=[" ".join(text.split()[1:]) for text in texts],
        stars=[5 if label == "pos" else 1 for label in labels],
    )

    # What the page of errors tells of.
    table(place / "stars.csv", text=["good1", "good2"], label=["pos", "great"])
    table(place / "sorted.csv", text=[f"good{i}" for i in range(5)], label=["pos"] * 5)
    gap = ["good1", "bad1", "good2", None, "bad2", "good3"]
    table(place / "gaps.csv", text=gap, label=["pos", "neg"] * 3)
    table(place / "foreign.csv", text=["ein guter good1", "kein film dies"], label=["pos", "neg"])
    pickled = save_folder(place / "pickled", model)
    (pickled / "model.safetensors").unlink()
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    save_folder(place / "encoder", BertModel(BertConfig(**BERT_LIKE)))
    small = XLNetConfig(vocab_size=60, d_model=16, n_layer=1, n_head=2, d_inner=16)
    save_folder(place / "xlnet", XLNetForSequenceClassification(small))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        asked = ["run", "./model", "--data", "dev.csv", "--max-drop", "0.01", "--out", "runs/one"]
        cli.cli.main([*asked, "--quiet"], standalone_mode=False)
    shutil.copytree(place / "runs" / "one", place / "runs" / "changed")
    config = place / "runs" / "changed" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "fingerprint": "another"}))
    (place / "runs" / "begun").mkdir()
    shutil.copy(place / "runs" / "one" / "config.json", place / "runs" / "begun")
    return place


@pytest.fixture
def workspace(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in which the test runs, on a machine without a GPU."""
    place = tmp_path / "workspace"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)
    monkeypatch.setattr(plan, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # Of models that are loaded with their own code.
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    return place


@pytest.fixture
def namespace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Python blocks may use without saying where it comes from."""
    rows = pd.read_csv("dev.csv")
    texts, labels = texts_and_labels(64, 5)
    # Effects of 6 x 12 heads on 80 examples: an evaluator that some have, and that costs nothing.
    random = np.random.default_rng(0)
    effects = random.normal(scale=0.1, size=(6, 12, 80, 2))
    full = random.normal(size=(80, 2))
    # The real one is tested by tests/callbacks, where it is installed.
    ignore = SimpleNamespace(
        add_scalar=lambda *_: None,
        add_text=lambda *_: None,
        flush=lambda: None,
        close=lambda: None,
    )
    board = SimpleNamespace(SummaryWriter=lambda folder: ignore)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    return {
        "model": headsearch.load_pruned("model"),
        "tokenizer": tiny_tokenizer(),
        "dataset": datasets.Dataset.from_dict(
            {"text": list(rows["text"]), "label": list(rows["label"])}
        ),
        "train": datasets.Dataset.from_dict({"text": texts, "label": labels}),
        "labels": full.argmax(axis=1),
        "logits": lambda heads: full - sum(effects[layer, head] for layer, head in heads),
    }


@pytest.fixture
def call(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Call the command line as `main` does."""
    return caller(monkeypatch, capsys)
