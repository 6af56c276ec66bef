"""A tiny trained model folder, data files, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.calling import Done, caller
from tests.words import save_folder, texts_and_labels, trained_model


@dataclass(frozen=True)
class Assets:
    model: Path
    data: Path
    held_out: Path
    certify: Path  # 1,200 texts, none of them in `data`


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    folder = tmp_path_factory.mktemp("assets")
    made = Assets(folder / "model", folder / "dev.csv", folder / "test.csv", folder / "certify.csv")
    save_folder(made.model, trained_model())
    for path, count, seed in ((made.data, 150, 2), (made.held_out, 90, 3)):
        texts, labels = texts_and_labels(count, seed)
        pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    known = set(pd.read_csv(made.data)["text"])
    rows = dict(zip(*texts_and_labels(1400, 4), strict=True))
    fresh = [row for row in rows.items() if row[0] not in known][:1200]
    pd.DataFrame(fresh, columns=["text", "label"]).to_csv(made.certify, index=False)
    return made


@pytest.fixture
def headsearch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Call the command line as `main` does and return exit code and output."""
    return caller(monkeypatch, capsys)
