"""rxnfp: the class of a chemical reaction, by the classifier that it came with.

BERT, 12 layers x 4 heads x 256; nothing is trained here. About five minutes on one core.

The package's classifier knows 50 classes by number alone, and no package carries the reactions with
those numbers. What is at hand are 47,732 reactions of the same origin (patents, USPTO-50K), each
with its template: which bonds change, found from the atoms' mapping and not by the model. A
dictionary from templates to class numbers is made from reactions that are in no split: the class
that the model gives to most reactions of a template. The label of a row is the class of its
template, whatever the model says of the row itself.
"""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.pairs import converted, made, sources
from headsearch.model.checkpoint import load_model
from headsearch.task.batches import tokenise
from headsearch.task.data import Examples

CLASSES = 50
MAX_LENGTH = 192  # 99 % of the reactions are shorter
# The authors' pattern of tokens of SMILES.
TOKEN = (
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@"
    r"|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])"
)
ATOM = re.compile(
    r"\[(?P<isotope>\d*)(?P<element>[A-Z][a-z]?|[bcnops])(?P<turn>@{0,2})(?P<hydrogens>H\d*)?"
    r"(?P<charge>[+-]+\d*)?(?::\d+)?\]"
)
BARE = {"B", "C", "N", "O", "P", "S", "F", "Cl", "Br", "I", "b", "c", "n", "o", "p", "s"}
# A template has a class if it has so many reactions, of which so many are asked, and so large a
# share of those gets one and the same answer.
COMMON, ASKED, AGREED = 40, 12, 0.75
POOL, TEST = 3600, 1800


def without_map(reaction: str) -> str:
    """Return a reaction without the atoms' numbers, in the form that the model was trained on.

    >>> without_map("[CH3:1][C@@H:2]([O-:4])[c:3]1[cH:5][nH:6]cc1")
    'C[C@@H]([O-])c1c[nH]cc1'
    """

    def plain(atom: re.Match[str]) -> str:
        isotope, element, turn, hydrogens, charge = (part or "" for part in atom.groups())
        aromatic = element.islower() and element != "c"  # the hydrogen of [nH] can't be inferred
        if element in BARE and not (isotope or turn or charge or (aromatic and hydrogens)):
            return element
        return f"[{isotope}{element}{turn}{hydrogens}{charge}]"

    return ATOM.sub(plain, reaction)


def load(folder: Path) -> pd.DataFrame:
    """Return reactions of common templates: columns `text`, `template`, `group` (the patent)."""
    columns = ["RxnSmilesClean", "PseudoHash", "RetroTemplate", "id"]
    files = sorted(folder.glob("*.csv"))
    table = pd.concat([pd.read_csv(f, sep="\t", usecols=columns) for f in files])
    table = table.drop_duplicates("PseudoHash")
    counts = table["RetroTemplate"].value_counts()
    table = table[table["RetroTemplate"].isin(counts[counts >= COMMON].index)]
    return pd.DataFrame(
        {
            "text": [without_map(reaction) for reaction in table["RxnSmilesClean"]],
            "template": table["RetroTemplate"],
            "group": table["id"].str.split(";").str[0],
        }
    ).sample(frac=1.0, random_state=0)


def answers(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the classes that the unpruned model gives, (texts,) int64."""
    model, tokenizer = load_model(str(folder))
    data = tokenise(Examples(texts, None, np.zeros(len(texts))), tokenizer, max_length=MAX_LENGTH)
    found = np.empty(len(texts), dtype=np.int64)
    found[data.order] = made.outputs(model, data).argmax(-1)
    return found


def make(folder: Path, options: Namespace, say: Any) -> dict[str, Any]:
    """Convert the model, make the dictionary, and write the pair."""
    files = sources.files_of(sources.RXNFP)
    names = [f"LABEL_{i}" for i in range(CLASSES)]
    settings = json.loads((files / "config.json").read_text())
    weights = converted.read_pickle(files / "pytorch_model.bin")
    converted.write_model(folder / "model", settings, weights, names)
    converted.write_tokenizer(folder / "model", files / "vocab.txt", TOKEN)
    table = load(sources.files_of(sources.REACTIONS))
    asked = table.groupby("template").head(ASKED)
    asked = asked.assign(answer=answers(folder / "model", list(asked["text"])))
    shares = asked.groupby("template")["answer"].value_counts(normalize=True)
    best = shares.reset_index(name="share").drop_duplicates("template")
    known = best[best["share"] >= AGREED].set_index("template")["answer"]
    say(f"{len(known)} of {len(best)} templates have a class, {known.nunique()} classes in all")
    rest = table[~table["group"].isin(set(asked["group"])) & table["template"].isin(known.index)]
    rest = rest.drop_duplicates("text")
    rest = rest.assign(label=rest["template"].map(known))[["text", "label", "group"]]
    # Whole patents go to the test split; it is cut to its size.
    place = rest["group"].map({name: i for i, name in enumerate(rest["group"].unique())})
    first = int(place.iloc[TEST])
    test, pool = rest[place < first].head(TEST), rest[place >= first].head(POOL)
    about = {
        "pair": "rxnfp",
        "task": "classes of chemical reactions, by the classifier that came with the model; a "
        "label is the class that the reaction's template stands for",
        "notes": "Which class number a template stands for was read off the model's own answers to "
        f"{ASKED} reactions of it, of patents that are in no split; templates without one class "
        f"({len(best) - len(known)} of {len(best)}) are left out. Reagents are not in these data. "
        "The classifier was trained on 10,000 reactions of the same origin: which, is not known.",
        "classes_that_occur": int(known.nunique()),
        "metric": "accuracy",
        "max_length": MAX_LENGTH,
        "splits": {"search": 1800, "certify": 1500, "test": "test.csv"},
        "group": "patent",
        "sources": sources.described(sources.RXNFP, sources.REACTIONS),
        "training": None,
    }
    return made.write(folder, about, pool, test)
