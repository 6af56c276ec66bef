"""A dry run in a few lines of text."""

from __future__ import annotations

from typing import Any

from headsearch.report.duration import duration
from headsearch.task.metric import PERPLEXITY


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Return what a person should read of what `run.plan.make_plan` gives."""
    certify = plan["certify_examples"]
    held = f", and {certify:,} to certify on" if certify else ""
    threads = plan["threads_per_worker"]
    crew = f"{plan['workers']} worker{'' if plan['workers'] == 1 else 's'}"
    change, of_itself = ("rise", " of itself") if plan["metric"] == PERPLEXITY else ("fall", "")
    lines = [
        f"{plan['heads']} heads in {plan['layers']} layers; {plan['examples']:,} search examples"
        f"{held}; {plan['metric']} may {change} by {plan['max_drop']:g}{of_itself}.",
        f"Engine {plan['engine']}: {crew}, {plan['shards']} shard"
        f"{'' if plan['shards'] == 1 else 's'}, {plan['dtype']}"
        + (f", {threads} thread{'' if threads == 1 else 's'} each" if threads else "")
        + (f", {plan['gpus_per_worker']:g} GPUs each" if plan["gpus_per_worker"] else "")
        + ".",
        f"Memory of each worker: up to {plan['bytes_per_worker'] / 2**30:.1f} GiB. "
        f"Scores on disk: up to {_bytes(plan['disk_bytes'])}, "
        f"{_bytes(plan['disk_free_bytes'])} are free.",
        f"Measured here in {plan['probe']['seconds']:.0f} s: {plan['probe']['evaluation']:.3g} s "
        "an evaluation and worker.",
    ]
    count = plan["evaluations"]
    if count is None:
        ends = "only the time limit ends" if plan["time_limit"] else "no budget ends"
        lines.append(f"Evaluations: as many as there are sets of heads; {ends} this search.")
    else:
        low, expected, high = (f"{count[name]:,.0f}" for name in ("low", "expected", "high"))
        lines.append(
            f"Evaluations: {expected}."
            if low == high
            else f"Evaluations: about {expected}, between {low} and {high}."
        )
    if plan["times"]:
        rows = [_row(row) for row in plan["times"]]
        head = ("workers", "time", "at least", "at most", "cost")[: len(rows[0])]
        lines.append("")
        for row, cells in zip([None, *plan["times"]], [head, *rows], strict=True):
            own = row is not None and row["workers"] == plan["workers"]
            lines.append("".join(f"{cell:>12}" for cell in cells) + "   this run" * own)
    return lines + [f"Warning: {text}." for text in plan["warnings"]]


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    times = [duration(row["seconds"][name]) for name in ("expected", "low", "high")]
    cost = [f"{row['cost']['expected']:,.2f}"] if "cost" in row else []
    return f"{row['workers']:,}", *times, *cost


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6)):,} MB"
