"""Lookahead: adds up the heads' effects and follows the path of least predicted loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headsearch.search.guides.base import Path, View, predicted_reach
from headsearch.task.metric import over_classes


@dataclass(frozen=True)
class Lookahead:
    """Greedy path by predicted loss plus `caution` times the mean size of a head's effect.

    The predicted outputs after removing A are outputs(S) + the sum of the effects over A. Caution 0
    trusts that sum wholly and so picks heads whose effect is mispredicted; a large caution removes
    the heads that do least.

    At each step the loss's second-order Taylor expansion in the effects names a shortlist, in two
    matrix-vector products, and the predicted losses themselves decide among it. With all heads on
    the shortlist the path costs as many losses as it has steps times heads, which for 384 heads
    and 10,000 examples is minutes instead of a second.

    Attributes:
        caution: weight of the mean absolute effect, in loss per unit of output.
        limit: longest path that is built.
        shortlist: how many heads' losses are predicted at each step.
    """

    caution: float
    limit: int = 32
    shortlist: int = 12

    @property
    def name(self) -> str:
        """The guide's name, with its caution."""
        return f"lookahead-{self.caution:g}"

    def path(self, view: View) -> Path:
        """See `Guide.path`."""
        objective = view.problem.objective
        penalty = self.caution * np.abs(view.effects).mean(axis=(1, 2), dtype=np.float64)
        flat = squares = view.effects[:0]
        if len(view.heads) > self.shortlist:
            moved = view.effects
            if moved.shape[2] > 1:  # moving all classes together changes nothing
                moved = (
                    moved - (over_classes(np.add, moved) / np.float32(moved.shape[2]))[..., None]
                )
            flat = moved.reshape(len(view.heads), -1)
            squares = np.square(flat)
        outputs = view.node.outputs.astype(np.float64)
        open_still = np.ones(len(view.heads), dtype=bool)
        order: list[int] = []
        while open_still.any() and len(order) < self.limit:
            places = np.flatnonzero(open_still)
            if len(places) > self.shortlist:
                slopes, curves = objective.derivatives(outputs)
                change = flat @ slopes.ravel() + squares @ curves.ravel()
                guess = change / len(outputs) + penalty
                guess[~open_still | np.isnan(guess)] = np.inf
                places = np.sort(np.argsort(guess, kind="stable")[: self.shortlist])
                places = places[open_still[places]]
            losses = objective.losses(outputs[None] + view.effects[places]).mean(axis=1)
            best = places[int(np.argmin(losses + penalty[places]))]
            open_still[best] = False
            outputs = outputs + view.effects[best]
            order.append(int(view.heads[best]))
        path = tuple(order)
        return Path(path, predicted_reach(view, path))
