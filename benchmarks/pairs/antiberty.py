"""AntiBERTy: the species that an antibody is of, by the classifier that it came with.

BERT, 8 layers x 8 heads x 512; nothing is trained here. About five minutes on one core.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.pairs import converted, made, sources

CLASSES = ("Camel", "Human", "Mouse", "Rabbit", "Rat", "Rhesus")  # the order of its outputs
RESIDUE = "[A-Z]"
MAX_LENGTH = 144  # the longest sequence has 134 residues
# Sequenced antibodies: (file of AbNatiV's own test rows, species, how many).
SEQUENCED = (("vh", "Human", 350), ("vl", "Human", 350), ("vhh", "Camel", 700))
# Germline genes joined, V and J: (species, name in the package, chains, how many). Only chains of
# which the model's training data, the Observed Antibody Space, had any: it held no light chains of
# rabbits and rats, and on those the model can but guess.
GERMLINE = (
    ("Mouse", "mouse", "HK", 700),
    ("Rabbit", "rabbit", "H", 312),
    ("Rat", "rat", "H", 448),
    ("Rhesus", "macaque", "HKL", 700),
)


def sequenced(folder: Path) -> Iterator[pd.DataFrame]:
    """Yield distinct sequences of human and camelid antibodies; each is a group of its own."""
    for name, species, count in SEQUENCED:
        table = pd.read_csv(
            folder / f"{name}_v2_abnativ_seq_scores.csv", usecols=["seq_id", "input_seq"]
        )
        table = table[table["input_seq"].str.fullmatch("[ACDEFGHIKLMNPQRSTVWY]{80,134}")]
        table = table.drop_duplicates("input_seq").sample(count, random_state=0)
        yield pd.DataFrame(
            {"text": table["input_seq"], "label": species, "group": table["seq_id"].astype(str)}
        )


def germline(folder: Path) -> Iterator[pd.DataFrame]:
    """Yield distinct joined germline sequences; all alleles and joins of a V gene are a group."""
    for label, species, chains, count in GERMLINE:
        rows = []
        for chain in chains:
            for line in (folder / f"{species}_{chain}.sto").read_text().splitlines():
                fields = line.split()
                if len(fields) == 2 and fields[0].startswith(species):
                    gene = fields[0].split("*")[0]  # "mouse_IGHV1-12" of "mouse_IGHV1-12*01_IGHJ…"
                    rows.append((fields[1].replace("-", ""), label, f"{gene} {chain}"))
        table = pd.DataFrame(rows, columns=["text", "label", "group"]).drop_duplicates("text")
        yield table.sample(min(count, len(table)), random_state=0)


def make(folder: Path, options: Namespace, say: Any) -> dict[str, Any]:
    """Convert the model, and write the pair."""
    files = sources.files_of(sources.ANTIBERTY)
    weights = converted.read_pickle(files / "AntiBERTy_md_smooth" / "pytorch_model.bin")
    for part in ("weight", "bias"):
        weights[f"classifier.{part}"] = weights.pop(f"cls.species.{part}")
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith("cls.")}
    settings = json.loads((files / "AntiBERTy_md_smooth" / "config.json").read_text())
    converted.write_model(folder / "model", settings, weights, CLASSES)
    converted.write_tokenizer(folder / "model", files / "vocab.txt", RESIDUE)
    rows = [
        *sequenced(sources.files_of(sources.ANTIBODIES)),
        *germline(sources.files_of(sources.GERMLINES)),
    ]
    pool = pd.concat(rows).drop_duplicates("text").sample(frac=1.0, random_state=0)
    for name, count in pool["label"].value_counts().items():
        say(f"{name}: {count}")
    about = {
        "pair": "antiberty",
        "task": "the species of an antibody's variable domain, 6 classes, by the classifier that "
        "came with the model; labels are the data's own annotation",
        "notes": "Human and camelid rows were sequenced, and the model may have seen them when it "
        "was trained; the others are germline V and J genes joined, without D, which no antibody "
        "is: the model is right on nearly all of the former and on three in four of the latter.",
        "metric": "accuracy",
        "max_length": MAX_LENGTH,
        "splits": {"search": 1500, "certify": 850, "test": "rest"},
        "group": "V gene of germline rows, else the sequence",
        "sources": sources.described(sources.ANTIBERTY, sources.ANTIBODIES, sources.GERMLINES),
        "training": None,
    }
    return made.write(folder, about, pool, None)
