"""How the heads removed grow with the number of evaluations, of headsearch and every baseline.

    python -m benchmarks.growth [--results FOLDER] [--budget 0.01] [--gradients] [--svg OUT.svg]

Reads what `benchmarks.quality` found: after how many evaluations each method had first scored a
state with so many heads removed within the budget, states counted one by one in the order in which
they were committed. Paired: on every deal of every pair all methods scored the same examples with
the same evaluator. Prints for each method the mean number of heads after 5, 7, 10, … evaluations,
as a share of the model's heads, over the deals on which it was run, and in brackets headsearch's on
the very same deals. Evaluations that headsearch gave up half way count by their share of the
examples.

Gradients are not counted, or with `--gradients` as so many evaluations as they took longer than one
in a search of the pair's model on one core: what `headsearch plan` measured, in `results/plan`. A
picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import ORDER, OURS, RESULTS
from benchmarks.quality_report import load

EVALUATIONS = (5, 7, 10, 20, 35, 50, 75, 100, 150, 200, 300)
PLANS = RESULTS.with_name("plan")


def heads_after(entry: dict[str, Any], evaluations: float, price: float) -> int:
    """Return how many heads a method had removed after so many evaluations.

    Args:
        entry: of the method.
        evaluations: how many.
        price: as how many of them a gradient counts.
    """
    within = (
        h for h, spent, gradients in entry["growth"] if spent + price * gradients <= evaluations
    )
    return max(within, default=0)


def price_of(pair: str) -> float:
    """Return how many times as long a gradient took as an evaluation; the mean of what was run."""
    rows = json.loads((PLANS / f"{pair}.json").read_text())["rows"]
    return float(np.mean([row["probe"]["gradient"] / row["probe"]["evaluation"] for row in rows]))


def table(
    runs: Sequence[tuple[dict[str, Any], float]], names: Sequence[str]
) -> dict[str, tuple[int, list[float], list[float]]]:
    """Return by method, on how many deals it was run, and mean shares of heads removed.

    Its own by `EVALUATIONS`, and headsearch's on the same deals.

    Args:
        runs: methods and their entries, of every deal of every pair, and the price of a gradient.
        names: of methods.
    """
    found = {}
    for name in names:
        own = [(run, price) for run, price in runs if name in run]
        shares = [
            [
                [heads_after(run[who], spent, price) / total_heads(run) for spent in EVALUATIONS]
                for run, price in own
            ]
            for who in (name, OURS)
        ]
        found[name] = (len(own), *(list(np.mean(each, axis=0)) for each in shares))
    return found


def total_heads(run: dict[str, Any]) -> int:
    """Return how many heads the model has."""
    return int(run[OURS]["total"])


def draw(found: dict[str, tuple[int, list[float], list[float]]], out: Path) -> None:
    """Draw the table."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "headsearch", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, (_, shares, _) in found.items():
        style = {"linewidth": 2.5, "color": "black"} if name == OURS else {"linewidth": 1.0}
        axes.plot(EVALUATIONS, [100 * share for share in shares], label=name, **style)
    axes.set(xscale="log", xlabel="evaluations", ylabel="heads removed, %", ylim=(0, None))
    axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
    axes.legend(frameon=False, fontsize=7, ncols=2)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--budget", default="0.01")
    parser.add_argument("--gradients", action="store_true", help="count them too")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    every = load(args.results)
    runs = [
        (methods, price_of(pair) if args.gradients else 0.0)
        for (pair, budget), by_seed in sorted(every.items())
        if budget == args.budget
        for _, methods in sorted(by_seed.items())
        # Earlier results don't say how many gradients were measured when.
        if all(len(row) == 3 for row in methods.get(OURS, {}).get("growth", [()]))
    ]
    if not runs:
        parser.error(f"nothing in {args.results} has a budget of {args.budget} and growth")
    found = table(runs, [OURS, *(n for n in ORDER if any(n in run for run, _ in runs))])
    print(
        f"{len(runs)} deals, budget {args.budget}; % of heads removed after so many evaluations"
        f"{', gradients counted' if args.gradients else ''}; (headsearch on the same deals)\n"
    )
    print("| | deals | " + " | ".join(str(n) for n in EVALUATIONS) + " |")
    print("|---" * (len(EVALUATIONS) + 2) + "|")
    for name, (deals, shares, ours) in sorted(found.items(), key=lambda item: -item[1][1][-1]):
        cells = [
            f"{100 * share:.0f}" + ("" if name == OURS else f" ({100 * same:.0f})")
            for share, same in zip(shares, ours, strict=True)
        ]
        print(f"| {name} | {deals} | {' | '.join(cells)} |")
    if args.svg:
        draw(found, args.svg)


if __name__ == "__main__":
    main()
