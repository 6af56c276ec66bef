"""The Python calls: searching, pruning, saving, loading, reporting, and families of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from headsearch.callbacks.base import Callbacks
from headsearch.errors import InputError
from headsearch.heads import HeadSet
from headsearch.memo.memory import MemoryStore
from headsearch.memo.store import MemoStore
from headsearch.model.as_it_is import as_it_is, is_float32_on_cpu, is_patched
from headsearch.model.bundle import rebuild
from headsearch.model.checkpoint import load_pruned, save_pruned
from headsearch.model.families import check_model, head_map, kind_of, reads_images, register_family
from headsearch.model.narrow import narrowed
from headsearch.model.plain import check_alike
from headsearch.report import page
from headsearch.report.console import Progress, StderrConsole
from headsearch.report.figures import require_matplotlib
from headsearch.report.summary import result_lines
from headsearch.run import engines
from headsearch.run.config import RunConfig
from headsearch.run.findings import gather
from headsearch.run.points import OperatingPoint, within
from headsearch.run.prepare import about_certify_data, make_task
from headsearch.run.session import run_search
from headsearch.run.weighing import weigh
from headsearch.task.data import Examples, examples_from_rows

__all__ = [
    "OperatingPoint",
    "SearchResult",
    "load_pruned",
    "prune",
    "register_family",
    "save_pruned",
    "search",
    "write_report",
]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        best: most heads removed within the budget.
        operating_points: the frontier of heads removed against metric, most removed first.
        safer_points: the frontier of heads removed against loss within the budget, most removed
            first: with as many heads removed these fall less on other data, as a rule. For metrics
            that are no counts, the operating points within the budget.
        mask: the content of `mask.json` for `best`.
        details: the content of `result.json`.
        certified_mask: the same as `mask` for the certified point; None if there is none.
    """

    best: OperatingPoint
    operating_points: tuple[OperatingPoint, ...]
    safer_points: tuple[OperatingPoint, ...]
    mask: dict[str, Any]
    details: dict[str, Any]
    certified_mask: dict[str, Any] | None = None

    def within(self, max_drop: float) -> OperatingPoint:
        """Return the operating point that saves most within another budget than the search's.

        It is the best that the search came across: one by that budget may find a better one.

        Raises:
            InputError: `max_drop` is out of range.
        """
        return OperatingPoint.from_json(within(self.details, max_drop))

    def __str__(self) -> str:
        return "\n".join(result_lines(self.details, self.mask))


def search(
    model: nn.Module,
    tokenizer: Any,
    dataset: Any,
    max_drop: float = 0.01,
    *,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    image_column: str = "image",
    certify_dataset: Any = None,
    memo: str | Path | None = None,
    progress: bool = False,
    callbacks: Iterable[object] = (),
    **options: Any,
) -> SearchResult:
    """Remove as many attention heads as possible while the metric stays within the budget.

    Args:
        model: a fine-tuned model for sequence or token classification, or a causal language model;
            it is not changed. Its heads are turned off and on meanwhile: searches of one model in
            several threads wait for each other, and nothing else may use it.
        tokenizer: its tokenizer, or image processor.
        dataset: labelled validation data: a `datasets.Dataset`, or any sequence of rows. For token
            classification texts are lists of words, each with a label; for several labels at once
            labels are lists of names, or of a 0 or 1 for each; a language model needs texts alone.
        max_drop: how far the metric may fall, absolute: 0.01 is one point of accuracy. Of
            perplexity it is by what share of itself it may rise.
        text_column, pair_column, label_column: where texts and labels are.
        image_column: where images are, of a model that reads them: as PIL or `datasets` give them,
            arrays, or paths.
        certify_dataset: held-out rows that certify what holds on the population, at the option
            `confidence`; or the option `certify_fraction` takes a part of `dataset` for it.
        memo: a file that keeps all scores for later searches; None keeps them in memory only.
        progress: show progress on stderr.
        callbacks: are told how the search goes, and decide nothing; see `headsearch.callbacks`.
        **options: any other option of `headsearch run` by its Python name: `metric`,
            `weight` ("heads", "parameters" or "latency": what is to be saved), `max_examples`,
            `engine` ("inline" here unless said otherwise), `workers`, `shards`,
            `threads_per_worker`, `max_evaluations`, `time_limit` (seconds), …

    Raises:
        HeadsearchError: an argument, the data or the model can't be used; one clear line. Of a
            model, hooks or replaced modules that change what its class computes.
        Exception: whatever a callback raises.
    """
    listeners = Callbacks(callbacks)
    if "map" in options:
        raise InputError("`map` names a file; pass `dataset.map(function)` as `dataset`")
    for name, rows in (("data", "dataset"), ("certify_data", "certify_dataset")):
        if name in options:
            raise InputError(f"`{name}` names a file; pass rows as `{rows}`")
    for name in ("subset", "split", "certify_split"):
        if name in options:
            raise InputError(f"`{name}` is of data that are loaded by name; pass its rows")
    options = {"engine": "inline", **options}
    config = RunConfig.from_json(
        {
            "model": type(model).__name__,
            "data": "dataset",
            "max_drop": max_drop,
            "text_column": text_column,
            "pair_column": pair_column,
            "label_column": label_column,
            "image_column": image_column,
            "certify_data": None if certify_dataset is None else "dataset",
            **options,
        }
    )
    check_model(model)
    if not callable(tokenizer):
        raise InputError(
            f"`tokenizer` must be a tokenizer or image processor but got {tokenizer!r:.80}"
        )
    with as_it_is(model):
        return _search(
            model, tokenizer, dataset, certify_dataset, config, listeners, memo, progress
        )


def _search(
    model: nn.Module,
    tokenizer: Any,
    dataset: Any,
    certify_dataset: Any,
    config: RunConfig,
    listeners: Callbacks,
    memo: str | Path | None,
    progress: bool,
) -> SearchResult:
    whole: Any = model
    kind = kind_of(model)  # what is wrong with it is said before data are read

    def examples_of(rows: Any, max_examples: int | None) -> Examples:
        return examples_from_rows(
            rows,
            text_column=config.text_column,
            pair_column=config.pair_column,
            label_column=config.label_column,
            image_column=config.image_column if reads_images(model) else None,
            id2label=whole.config.id2label,
            classes=whole.config.num_labels,
            max_examples=max_examples,
            seed=config.seed,
            kind=kind,
        )

    examples, certify = examples_of(dataset, config.max_examples), None
    if certify_dataset is not None:
        with about_certify_data():
            certify = examples_of(certify_dataset, None)
    task = make_task(model, tokenizer, examples, config, certify)
    stock = rebuild(task.bundle)
    if is_patched(model) or not is_float32_on_cpu(model):
        # The last word is float32's, and the user's model stays where it is, as it is.
        task = replace(task, model=stock)
    else:
        check_alike(model, stock, task.data.batches[0])
    choice = engines.choose(config, task)
    saves = weigh(task, config)
    workers = engines.start(choice, config, task)
    try:
        store: MemoStore = MemoryStore()
        if memo is not None:
            store = engines.open_memo(workers, Path(memo), task.fingerprint)
        try:
            with Progress(StderrConsole(), quiet=not progress) as watcher:
                outcome = run_search(
                    task,
                    config,
                    workers,
                    store,
                    saves=saves,
                    watcher=watcher,
                    on_step=lambda step: listeners.tell("on_expansion", step),
                    on_incumbent=lambda point: listeners.tell(
                        "on_incumbent", OperatingPoint.from_json(point)
                    ),
                )
        finally:
            store.close()
    finally:
        workers.close()
    result = outcome.result
    found = SearchResult(
        best=OperatingPoint.from_json(result["best"]),
        operating_points=tuple(map(OperatingPoint.from_json, result["operating_points"])),
        safer_points=tuple(map(OperatingPoint.from_json, result["safer_points"])),
        mask=outcome.mask,
        certified_mask=outcome.certified_mask,
        details=result,
    )
    listeners.tell("on_end", found)
    return found


def prune(
    model: nn.Module, removed: HeadSet | Mapping[str, Any] | Iterable[Sequence[int]]
) -> nn.Module:
    """Return a narrow copy of the model without the given heads.

    Args:
        model: a model of a known family; it is not changed.
        removed: (layer, head) pairs, as in `result.best.removed`; the content of a `mask.json`;
            or a HeadSet.

    Raises:
        InputError: a head is named that the model does not have, or the mask is of another shape.
        UnknownFamilyError: the model's family is not known.
        ModelError: models of its family can't be narrowed.
    """
    check_model(model)
    shape = head_map(model)
    if isinstance(removed, HeadSet):
        return narrowed(model, removed)
    if isinstance(removed, Mapping):
        return narrowed(model, shape.from_mask_for(removed))
    return narrowed(model, shape.from_pairs(tuple(pair) for pair in removed))


def write_report(
    run: str | Path,
    *,
    style: str = "html",
    out: str | Path | None = None,
    examples: bool = True,
    map: str | None = None,
) -> Path:
    """Write what a finished run found as a page, and return where it is.

    Args:
        run: the run folder.
        style: "html", one file, or "md", Markdown with figures beside it.
        out: the file; default: `report.html` or `report.md` in the run folder.
        examples: score the full and the pruned model once more, to show the answers that changed;
            texts of the data are then part of the page.
        map: FILE.py:FUNCTION, where the run's data went through one.

    Raises:
        HeadsearchError: there is no such run, its data went through a `map` that is not given,
            matplotlib is not installed, or the style is unknown.
    """
    if style not in page.FORMATS:
        raise InputError(f"`style` must be one of {', '.join(page.FORMATS)} but got {style!r}")
    require_matplotlib()  # before anything that takes long
    place = Path(run) / f"report.{style}" if out is None else Path(out)
    return page.write_report(place, style, **gather(Path(run), examples, map))[0]
