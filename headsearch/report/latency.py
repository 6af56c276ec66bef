"""Measured latencies as a table in text."""

from __future__ import annotations

from typing import Any

_HEADS = ("batch", "tokens", "model", "milliseconds", "of the first's time", "MB", "parameters")


def latency_lines(measured: dict[str, Any]) -> list[str]:
    """Return what a person should read of what `run.latency.latency` returned."""
    rows = [_HEADS, *(_row(result) for result in measured["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [
        *table,
        "",
        f"Medians (quartiles) over {measured['repeats']} rounds; in each, all were measured one "
        f"after the other. {measured['device']}, {measured['threads']} threads.",
        "MB: the most that a call needs beside the model itself.",
    ]


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    time, ratio, peak = result["milliseconds"], result["ratio"], result["peak_bytes"]
    tokens, parameters = result["tokens"], result["parameters"]
    return (
        str(result["batch"]),
        "-" if tokens is None else str(tokens),
        result["model"],
        f"{time['median']:.4g} ({time['low']:.4g}-{time['high']:.4g})",
        f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})",
        "-" if peak is None else f"{peak / 1e6:.1f}",
        "-" if parameters is None else f"{parameters:,}",
    )
