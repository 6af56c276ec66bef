"""Two splits that share nothing: one to search on, one to certify on."""

from __future__ import annotations

import numpy as np

from headsearch.errors import DataError
from headsearch.task.data import Examples

# Which random numbers of a seed the cut takes: others than `max_examples` does.
STREAM = 1


def hold_out(examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Cut a seeded random part off; return (the rest, that part), both in source order.

    Examples with the same texts stay together, so that none of the part's is among the rest.

    Args:
        examples: all there are.
        fraction: size of the part, in (0, 1).
        seed: of what is taken.

    Raises:
        DataError: the rest has less than two labels, and no metric means anything on it.
    """
    rows: dict[tuple[object, str], list[int]] = {}
    for row, key in enumerate(examples.identities()):
        rows.setdefault(key, []).append(row)
    groups = list(rows.values())
    wanted = max(1, round(fraction * len(examples)))
    part: list[int] = []
    for group in np.random.default_rng([seed, STREAM]).permutation(len(groups)):
        if len(part) < wanted:
            part += groups[group]
    rest = sorted(set(range(len(examples))) - set(part))
    if not rest or examples.take(rest).distinct_labels < 2:
        raise DataError(
            "`certify_fraction` must leave examples of at least two labels to search on but of "
            f"{len(examples)} examples {fraction:g} leaves {len(rest)}"
        )
    return examples.take(rest), examples.take(sorted(part))


def shared(search: Examples, certify: Examples) -> int:
    """Return how many examples of the certify split have the texts of one of the search split."""
    known = set(search.identities())
    return sum(key in known for key in certify.identities())


def repeats(examples: Examples) -> int:
    """Return how many examples have the texts of one before them."""
    return len(examples) - len(set(examples.identities()))
