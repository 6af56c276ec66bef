"""What `benchmarks.quality` found, as tables and a picture.

    python -m benchmarks.quality_report [--svg OUT.svg]        (a picture needs matplotlib)

Prints, for every pair and budget, heads removed of each method on every deal of the splits that
was run, with a `+` where the evaluations were spent before the method had come to its end; by how
many hundredths the metric falls on the test split, in the mean over them, and by how many at
headsearch's mildest safer point of at least as many heads, each with the largest standard error
that this mean may have; and what it cost in the mean, in evaluations and in gradients.
Then, for each budget, how many times as many heads as the best baseline headsearch removed: on
every pair, the mean over its deals, and the mean over pairs. The picture shows heads removed by
evaluations, as headsearch went.

A file `PAIR-DEAL.json` is a deal of a pair. Training is not the same to the last bit on all
machines: `rt-epyc-0` is deal 0 of the pair whose model was trained on one of that name.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import OURS, RESULTS, WHOLE, ours_at

Runs = dict[str, dict[str, Any]]  # by deal, methods and their entries


def load(folder: Path) -> dict[tuple[str, str], Runs]:
    """Return all runs by pair and budget."""
    found: dict[tuple[str, str], Runs] = defaultdict(dict)
    for file in sorted(folder.glob("*.json")):
        pair, deal = file.stem.split("-", 1)
        for budget, methods in json.loads(file.read_text()).items():
            found[pair, budget][deal] = methods
    return dict(found)


def drop_on_test(methods: dict[str, Any], entry: dict[str, Any]) -> float:
    """Return by how much the metric falls on the test split, in hundredths."""
    return 100 * float(methods[OURS]["baseline"]["test"]["metric"] - entry["test"]["metric"])


def mean_fall(points: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Return the mean fall on the test splits of some deals, and its standard error if known.

    Deals of a pair have the same test examples, or some of them, so their errors are not
    independent: the mean of the errors is what that of the mean is at most.

    Args:
        points: the methods of each deal, and what is looked at.
    """
    mean = np.mean([drop_on_test(methods, point) for methods, point in points])
    errors = [point["test"].get("error") for _, point in points]
    if None in errors:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {100 * np.mean(errors):.1f}"


def rows(runs: Runs) -> Iterator[str]:
    """Yield the rows of a table in Markdown, most heads first."""
    seeds = sorted(runs)
    deals = " | ".join(f"deal {seed.replace('-', ' ')}" for seed in seeds)
    yield f"| | {deals} | falls on test | headsearch there | evaluations | gradients |"
    yield "|---" * (len(seeds) + 5) + "|"
    names = {name for methods in runs.values() for name in methods}

    def of(name: str, field: str) -> list[float]:
        return [runs[seed][name][field] for seed in seeds if name in runs[seed]]

    for name in sorted(names, key=lambda n: (-np.mean(of(n, "heads")), n)):
        heads = [
            f"{runs[s][name]['heads']}{'+' if cut_off(runs[s][name]) else ''}"
            if name in runs[s]
            else "-"
            for s in seeds
        ]
        ran = [runs[s] for s in seeds if name in runs[s]]
        falls = mean_fall([(m, m[name]) for m in ran])
        there = mean_fall([(m, ours_at(m, m[name]["heads"])) for m in ran])
        yield (
            f"| {name} | {' | '.join(heads)} | {falls} | {'-' if name == OURS else there} | "
            f"{np.mean(of(name, 'evaluations')):.0f} | {np.mean(of(name, 'gradients')):.0f} |"
        )


def cut_off(entry: dict[str, Any]) -> bool:
    """Whether a method had its evaluations spent before it came to its end."""
    return str(entry["stopped"]).endswith("budget spent")


def ratio(runs: Runs) -> float | None:
    """Return headsearch's heads over the best baseline's, the mean over deals that have any."""
    found = []
    for methods in runs.values():
        others = [
            entry["heads"]
            for name, entry in methods.items()
            if name != OURS and not name.endswith(WHOLE)
        ]
        if others and max(others):
            found.append(methods[OURS]["heads"] / max(others))
    return float(np.mean(found)) if found else None


def draw(found: dict[tuple[str, str], Runs], out: Path) -> None:
    """Draw heads removed by evaluations."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "headsearch", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(7.6, 3.6), layout="constrained")
    axes.set_prop_cycle(color=pyplot.get_cmap("tab20").colors)
    for (pair, budget), runs in found.items():
        for seed, methods in sorted(runs.items()):
            growth = [row[:2] for row in methods[OURS]["growth"]]
            last = [methods[OURS]["heads"], methods[OURS]["evaluations"]]
            heads, evaluations = np.array([*growth, last]).T
            label = f"{pair}, deal {seed}, {100 * float(budget):g} points"
            style = "-" if float(budget) else "--"
            axes.step(evaluations, heads, style, where="post", label=label)
    axes.set(xscale="log", xlabel="evaluations", ylabel="heads removed", ylim=(0, None))
    figure.legend(frameon=False, loc="outside right upper")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    found = load(args.results)
    for (pair, budget), runs in sorted(found.items()):
        print(f"\n{pair}, budget {100 * float(budget):g} points\n")
        print("\n".join(rows(runs)))
    for budget in sorted({budget for _, budget in found}):
        ratios = {pair: ratio(runs) for (pair, b), runs in sorted(found.items()) if b == budget}
        known = {pair: value for pair, value in ratios.items() if value is not None}
        if known:
            each = ", ".join(f"{pair} {value:.2f}" for pair, value in known.items())
            mean = np.mean(list(known.values()))
            print(
                f"\nbudget {100 * float(budget):g} points, heads over the best baseline's:", end=" "
            )
            print(f"{each}; mean {mean:.2f}")
    if args.svg:
        draw(found, args.svg)


if __name__ == "__main__":
    main()
