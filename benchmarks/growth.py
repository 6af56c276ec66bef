"""How the heads removed grow with the number of evaluations, of headsearch and every baseline.

    python -m benchmarks.growth [--results FOLDER] [--budget 0.01] [--svg OUT.svg]

Reads what `benchmarks.quality` found: after how many evaluations each method had first scored a
state with so many heads removed within the budget, states counted one by one in the order in which
they were committed. Paired: on every deal of every pair all methods scored the same examples with
the same evaluator. Prints the mean number of heads after 10, 20, 50, … evaluations, as a share of
the model's heads, over all deals of all pairs on which all of the methods were run; gradients are
not counted. A picture needs matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import ORDER, OURS, RESULTS
from benchmarks.quality_report import load

EVALUATIONS = (10, 20, 35, 50, 75, 100, 150, 200, 300)


def heads_after(entry: dict[str, Any], evaluations: float) -> int:
    """Return how many heads a method had removed after so many evaluations."""
    return max((heads for heads, spent in entry["growth"] if spent <= evaluations), default=0)


def table(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, list[float]]:
    """Return the mean share of heads removed, by method and `EVALUATIONS`.

    Args:
        runs: methods and their entries, of every deal of every pair.
        names: methods that all of these have.
    """
    found = {}
    for name in names:
        shares = [
            [heads_after(run[name], spent) / total_heads(run) for spent in EVALUATIONS]
            for run in runs
        ]
        found[name] = list(np.mean(shares, axis=0))
    return found


def total_heads(run: dict[str, Any]) -> int:
    """Return how many heads the model has."""
    return int(run[OURS]["total"])


def draw(found: dict[str, list[float]], out: Path) -> None:
    """Draw the table."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "headsearch", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, shares in found.items():
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
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    every = load(args.results)
    runs = [
        methods
        for (_, budget), by_seed in sorted(every.items())
        if budget == args.budget
        for _, methods in sorted(by_seed.items())
        if "growth" in methods.get(OURS, {})
    ]
    if not runs:
        parser.error(f"nothing in {args.results} has a budget of {args.budget} and growth")
    names = [OURS, *(n for n in ORDER if all("growth" in run.get(n, {}) for run in runs))]
    found = table(runs, names)
    print(
        f"{len(runs)} deals, budget {args.budget}; % of heads removed after so many evaluations\n"
    )
    print("| | " + " | ".join(str(n) for n in EVALUATIONS) + " |")
    print("|---" * (len(EVALUATIONS) + 1) + "|")
    for name, shares in sorted(found.items(), key=lambda item: -item[1][-1]):
        print(f"| {name} | " + " | ".join(f"{100 * share:.0f}" for share in shares) + " |")
    if args.svg:
        draw(found, args.svg)


if __name__ == "__main__":
    main()
