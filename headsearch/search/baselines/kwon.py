"""Fisher information: a global choice by its diagonal, rearranged within layers by its blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.baselines.base import is_tenth, score, score_between, slope_view
from headsearch.search.guides import Fisher
from headsearch.search.ledger import Ledger


@dataclass(frozen=True)
class Kwon:
    """For every number of heads, the set of least Fisher information, rearranged in each layer.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", sections 4.1 and
    4.2, and the authors' `prune/search.py` and `prune/rearrange.py`: gradients of the loss by the
    gates are measured once, at the full model. Since all heads cost the same, the warm start
    removes those with the least mean squared gradient. Then each layer's removed heads are chosen
    again, as many as before, by greedy exchanges under the layer's own block of the Fisher matrix.
    Costs 1 evaluation for each head and 1 gradient. Every tenth of the heads is scored first.

    Differences from the source. Its last stage, which rescales the heads that are left by least
    squares, is left out: it changes weights, and a gate here is 0 or 1. Filters are not pruned.
    Gradients are of single examples, as in the paper; the authors' code squares those of batches.
    They are measured on the search split instead of 2,048 training examples.
    """

    name: str = "fisher"

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        view = slope_view(ledger, ledger.baseline)
        order = Fisher().path(view).heads
        gradients = view.loss_gradients.astype(np.float64)  # (heads, examples)
        shape = ledger.problem.shape
        choices: list[list[HeadSet]] = []  # for each layer, by how many of its heads to remove
        for layer, heads in enumerate(shape.heads_per_layer):
            start = shape.start(layer)
            own = gradients[start : start + heads]
            # Not `@`: BLAS may add up in another order with another number of cores.
            fisher = np.einsum("je,ke->jk", own, own)
            choices.append(
                [
                    HeadSet.of(start + place for place in rearranged(fisher, count))
                    for count in range(heads + 1)
                ]
            )
        states = []
        for count in range(1, shape.total + 1):
            warm = HeadSet.of(order[:count])
            state = HeadSet()
            for layer, choice in enumerate(choices):
                state |= choice[len(shape.in_layer(warm, layer))]
            states.append(state)
        root = ledger.baseline.heads
        coarse = [state for state in states if is_tenth(state, shape.total)]
        scored = score(ledger, self.name, [(root, coarse)])
        left = [(root, state) for state in states if state not in coarse]
        score_between(ledger, self.name, scored, left)


def rearranged(fisher: np.ndarray, count: int) -> list[int]:
    """Return the places in one layer whose removal its Fisher matrix says to cost least.

    The cost of removing a set is the sum of its block. Starting from the least diagonal entries,
    each other place is added in turn, and that one is given back without which the cost is least.
    Greedy, as in the authors' `greedy_rearrange`.

    Args:
        fisher: (heads, heads), symmetric.
        count: how many places to return.
    """
    order = [int(place) for place in np.argsort(np.diagonal(fisher), kind="stable")]
    removed = order[:count]
    for place in order[count:] if count else []:
        removed.append(place)
        block = fisher[np.ix_(removed, removed)]
        # The block's sum without one place, less the whole block's sum.
        without = np.diagonal(block) - 2 * block.sum(axis=1)
        del removed[int(np.argmin(without))]
    return removed
