"""What `benchmarks.quality` found, as tables and a picture.

    python -m benchmarks.quality_report [--svg OUT.svg]        (a picture needs matplotlib)

Prints, for every pair and budget, heads removed of each method on every deal of the splits that
was run; by how many hundredths the metric falls on the test split, in the mean over them; and by
how many at headsearch's mildest operating point of at least as many heads. The picture shows heads
removed by evaluations, as headsearch went.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality import OURS, RESULTS

Runs = dict[int, dict[str, Any]]  # by seed, methods and their entries


def load(folder: Path) -> dict[tuple[str, str], Runs]:
    """Return all runs by pair and budget."""
    found: dict[tuple[str, str], Runs] = defaultdict(dict)
    for file in sorted(folder.glob("*.json")):
        pair, seed = file.stem.rsplit("-", 1)
        for budget, methods in json.loads(file.read_text()).items():
            found[pair, budget][int(seed)] = methods
    return dict(found)


def drop_on_test(methods: dict[str, Any], name: str) -> float:
    """Return by how much the metric falls on the test split, in hundredths."""
    full = methods[OURS]["baseline"]["test"]["metric"]
    return 100 * float(full - methods[name]["test"]["metric"])


def drop_of_ours(methods: dict[str, Any], heads: int) -> float:
    """Return the same of headsearch's operating point with at least so many heads removed."""
    points = [p for p in (*methods[OURS]["points"], methods[OURS]) if p["heads"] >= heads]
    if not points:
        return float("nan")
    full = methods[OURS]["baseline"]["test"]["metric"]
    return 100 * float(full - min(points, key=lambda p: p["heads"])["test"]["metric"])


def rows(runs: Runs) -> Iterator[str]:
    """Yield the rows of a table in Markdown, most heads first."""
    seeds = sorted(runs)
    deals = " | ".join(f"deal {seed}" for seed in seeds)
    yield f"| | {deals} | falls on test | headsearch there | evaluations |"
    yield "|---" * (len(seeds) + 4) + "|"
    names = {name for methods in runs.values() for name in methods}

    def of(name: str, field: str) -> list[float]:
        return [runs[seed][name][field] for seed in seeds if name in runs[seed]]

    for name in sorted(names, key=lambda n: (-np.mean(of(n, "heads")), n)):
        heads = [f"{runs[s][name]['heads']}" if name in runs[s] else "-" for s in seeds]
        drops = [drop_on_test(runs[s], name) for s in seeds if name in runs[s]]
        same = [drop_of_ours(runs[s], runs[s][name]["heads"]) for s in seeds if name in runs[s]]
        same = drops if name == OURS else same
        yield (
            f"| {name} | {' | '.join(heads)} | {np.mean(drops):.1f} | {np.mean(same):.1f} | "
            f"{np.mean(of(name, 'evaluations')):.0f} |"
        )


def draw(found: dict[tuple[str, str], Runs], out: Path) -> None:
    """Draw heads removed by evaluations."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"svg.hashsalt": "headsearch", "font.size": 9})
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for (pair, budget), runs in found.items():
        for seed, methods in sorted(runs.items()):
            growth = np.array([*methods[OURS]["growth"]])
            last = [methods[OURS]["heads"], methods[OURS]["evaluations"]]
            heads, evaluations = np.vstack([growth, last]).T
            label = f"{pair}, deal {seed}, {100 * float(budget):g} points"
            axes.step(evaluations, heads, where="post", label=label)
    axes.set(xscale="log", xlabel="evaluations", ylabel="heads removed", ylim=(0, None))
    axes.legend(frameon=False, loc="lower right")
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
    if args.svg:
        draw(found, args.svg)


if __name__ == "__main__":
    main()
