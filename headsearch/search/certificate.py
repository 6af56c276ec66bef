"""The certificate: what a held-out split proves about the population, at a stated confidence.

A point is a set of removed heads; its H0 is "on the population, removing them lowers accuracy by
more than d". Points are tested in an order that the search split alone has fixed, each at the whole
level alpha = 1 - confidence, until one is not rejected; the last one before it is certified. With
confidence 1 - alpha, no point that passed breaks the budget, as for that the first of the order
which breaks it must have been rejected, and that is a single test. This is fixed-sequence testing,
see Angelopoulos, Bates, Candès, Jordan and Lei, "Learn then Test", arXiv 2110.01052. The order goes
from the point that saves least to the one that saves most, as rejection is likeliest at the start.

The test. Removing heads turns b of n right answers wrong and c wrong ones right. Every example is
an independent draw that does so with chances (p_b, p_c); accuracy falls by p_b - p_c. Outcomes are
ordered by

    T(b, c) = (b - c - n d) / sqrt(b + c + (n d + 1) / 2),

smallest for what speaks most against H0. T rises with b and falls with c: dT/db has the sign of
b/2 + 3c/2 + n d + 1/2, -dT/dc that of 3b/2 + c/2 + 1/2. So P(T <= t) is the larger, the smaller p_b
and the larger p_c are, and the worst case of H0 for a given p_b + p_c is p_b - p_c = d. The
p-value is the maximum over p_b + p_c in its Clopper-Pearson interval at level gamma, plus gamma
(Berger and Boos, JASA 89, 1994, p. 1012). The interval is cut into cells, and each gets the bound
P(T <= t) at its least p_b and its largest p_c, so it is an upper limit of the maximum, not a sample
of it. The test is valid in finite samples, for every n, d >= 0, p_b and p_c. For exact tests of
paired answers see also Hsueh, Liu and Chen, Biometrics 57, 2001, p. 478.

It was chosen by power: the chance to reject at alpha .05, where p_b + p_c of the answers change.
Made by `tests/search/test_certificate.py`, which says what the others are. Wald's test is not valid
in finite samples; it shows what there would be to win at most.

    n     d     changed  drop  | this  betting  conditional  Clopper-Pearson  (Wald)
    900   0.01  0.05     0     | 0.36  0.23  0.19  0.06  (0.39)
    900   0.01  0.05     0.005 | 0.15  0.09  0.06  0.01  (0.17)
    900   0.01  0.10     0     | 0.24  0.14  0.15  0.03  (0.24)
    900   0.01  0.10     0.005 | 0.12  0.06  0.06  0.01  (0.12)
    900   0.02  0.05     0     | 0.83  0.68  0.53  0.42  (0.85)
    900   0.02  0.05     0.005 | 0.62  0.45  0.28  0.19  (0.64)
    900   0.02  0.10     0     | 0.58  0.40  0.38  0.18  (0.60)
    900   0.02  0.10     0.005 | 0.40  0.25  0.22  0.08  (0.42)
    2000  0.01  0.05     0     | 0.62  0.46  0.41  0.20  (0.64)
    2000  0.01  0.05     0.005 | 0.25  0.16  0.11  0.03  (0.26)
    2000  0.01  0.10     0     | 0.40  0.26  0.29  0.09  (0.41)
    2000  0.01  0.10     0.005 | 0.17  0.10  0.10  0.02  (0.18)
    2000  0.02  0.05     0     | 0.99  0.96  0.92  0.88  (0.99)
    2000  0.02  0.05     0.005 | 0.90  0.79  0.66  0.57  (0.91)
    2000  0.02  0.10     0     | 0.87  0.74  0.74  0.52  (0.88)
    2000  0.02  0.10     0.005 | 0.67  0.49  0.47  0.26  (0.68)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from scipy import special

from headsearch.heads import HeadSet
from headsearch.search.problem import Node

TEST = "exact unconditional paired test, maximised over the share of changed answers"
# gamma as a part of alpha: what is given away, for an interval that is some 7 standard errors wide.
UNSURE = 0.01
# Cells of that interval: the bound exceeds the maximum by less than 2 % of alpha.
CELLS = 500
# A first look at clear cases.
FEW_CELLS = 16


@dataclass(frozen=True)
class Flips:
    """How the answers on the certify split changed when heads were removed.

    Attributes:
        examples: n, all examples of the split.
        worse: b, right before and wrong after.
        better: c, wrong before and right after.
    """

    examples: int
    worse: int
    better: int


@dataclass(frozen=True)
class Tried:
    """A point that was tested.

    Attributes:
        heads: the removed heads.
        flips: what was observed.
        p_value: see `p_value`.
        passed: whether H0 was rejected.
    """

    heads: HeadSet
    flips: Flips
    p_value: float
    passed: bool


def sequence(points: Iterable[Node], best: Node) -> list[HeadSet]:
    """Return the order of testing, least saved first; it must not depend on the certify split.

    What is saved is the number of removed heads by default. By another weight a point may have
    more of them than one that saves more.

    Args:
        points: the operating points that are feasible on the search split, one for each weight.
        best: the state that is handed back: it takes the place of the point that saves as much,
            and none that saves more is tested.
    """
    milder = {point.weight: point.heads for point in points if point.weight < best.weight}
    chosen = milder | {best.weight: best.heads}
    return [chosen[weight] for weight in sorted(chosen) if len(chosen[weight])]


def right_answers(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which answers are right, (examples,) bool; outputs that are not finite are wrong.

    Args:
        outputs: (examples, classes).
        labels: (examples,) class ids.
    """
    return np.asarray(np.isfinite(outputs).all(axis=1) & (outputs.argmax(axis=1) == labels))


def flips(before: np.ndarray, after: np.ndarray) -> Flips:
    """Count how right answers changed; both (examples,) bool, in the same order."""
    return Flips(len(before), int((before & ~after).sum()), int((~before & after).sum()))


def certify(
    points: Sequence[HeadSet],
    observe: Callable[[HeadSet], Flips],
    max_drop: Fraction,
    alpha: float,
) -> list[Tried]:
    """Test points in the given order up to the first that fails; the last that passed is certified.

    Args:
        points: in an order that does not depend on the certify split.
        observe: scores a point on the certify split; called for no point behind one that fails.
        max_drop: d, as the decimal that was asked for.
        alpha: the chance of a false certificate, 1 - confidence.
    """
    tried = []
    for heads in points:
        observed = observe(heads)
        p = p_value(observed, max_drop, alpha)
        tried.append(Tried(heads, observed, p, p <= alpha))
        if p > alpha:
            break
    return tried


def p_value(observed: Flips, drop: Fraction, alpha: float, cells: int = CELLS) -> float:
    """Return the p-value of "the population's accuracy falls by more than `drop`".

    Takes O(cells * sqrt(n)).

    Args:
        observed: what the certify split shows.
        drop: d >= 0.
        alpha: the level that it will be compared with; sets gamma.
        cells: fewer of them are faster, and make a larger, still valid p-value.
    """
    n, changed, d = observed.examples, observed.worse + observed.better, float(drop)
    gamma = UNSURE * alpha
    low, high = _interval(changed, n, gamma)
    low = max(low, d)
    if high < low:  # so few answers changed that accuracy can't have fallen by d
        return gamma
    edges = np.linspace(low, high, cells + 1)
    worse, better = (edges[:-1] + d) / 2, (edges[1:] - d) / 2  # (cells,)
    return min(1.0, float(_chance(observed, float(n * drop), worse, better).max()) + gamma)


def upper_bound(observed: Flips, alpha: float, step: Fraction | None = None) -> Fraction:
    """Return a drop that the population's exceeds with a chance of at most alpha; 0 at least.

    The levels 1, 1 - step, … 0 are tested downwards until one is not rejected: a fixed sequence
    too. It holds for one point that was picked before the certify split was looked at.

    Args:
        observed: what the certify split shows.
        alpha: the chance that the bound does not hold.
        step: between levels, a part of 1; default: 0.001, or 0.0001 from 10,000 examples on.
    """
    step = step or (Fraction(1, 1000) if observed.examples < 10_000 else Fraction(1, 10_000))
    bound = Fraction(1)
    while bound > 0 and any(
        p_value(observed, bound - step, alpha, cells) <= alpha for cells in (FEW_CELLS, CELLS)
    ):
        bound -= step
    return bound


def _interval(count: int, n: int, gamma: float) -> tuple[float, float]:
    """Clopper and Pearson's interval for a share of which `count` of n were seen, level gamma."""
    low = special.betaincinv(count, n - count + 1, gamma / 2) if count else 0.0
    high = special.betaincinv(count + 1, n - count, 1 - gamma / 2) if count < n else 1.0
    return float(low), float(high)


def _chance(observed: Flips, margin: float, worse: np.ndarray, better: np.ndarray) -> np.ndarray:
    """Return P(T <= observed T), (cells,), rounded up, for chances of both kinds of change.

    Sums over the number m of changed answers, binomial, the chance that at most k(m) of them got
    worse, binomial too.

    Args:
        observed: where T is taken.
        margin: n d.
        worse, better: p_b and p_c, (cells,).
    """
    n, smooth = observed.examples, (margin + 1) / 2
    changed = observed.worse + observed.better
    least = (observed.worse - observed.better - margin) / np.sqrt(changed + smooth)
    share = np.minimum(worse + better, 1.0)
    spread = 8 * np.sqrt(n * share * (1 - share)) + 10
    first = max(0, int((n * share - spread).min()))
    last = min(n, int((n * share + spread).max()))
    m = np.arange(first, last + 1)
    # Ties with what was observed count; the 1e-9 is for those that rounding would tear apart.
    k = np.minimum(np.floor((m + margin + least * np.sqrt(m + smooth)) / 2 + 1e-9), m)
    ways = special.gammaln(n + 1) - special.gammaln(m + 1) - special.gammaln(n - m + 1)
    share = share[:, None]
    weight = np.exp(ways + special.xlogy(m, share) + special.xlog1py(n - m, -share))  # (cells, m)
    below = special.bdtr(np.maximum(k, 0), m, worse[:, None] / share)
    inside = (weight * np.where(k >= 0, below, 0.0)).sum(axis=1)
    # All that lies outside of the m that were summed counts in full.
    outside = special.bdtrc(last, n, share[:, 0])
    if first:
        outside = outside + special.bdtr(first - 1, n, share[:, 0])
    return np.asarray(inside + outside)
