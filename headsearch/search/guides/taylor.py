"""Taylor guides: the order of heads by the size of the loss's derivatives by their gates."""

from __future__ import annotations

import numpy as np

from headsearch.search.guides.base import Path, View, predicted_reach
from headsearch.search.weight import by_worth


class Michel:
    """mean |d loss / d gate|, normalised in each layer by the l2 norm.

    Michel, Levy and Neubig 2019, "Are Sixteen Heads Really Better than One?", section 4.1.
    """

    name = "michel"

    def path(self, view: View) -> Path:
        """See `Guide.path`."""
        importance = np.abs(view.loss_gradients).mean(axis=1)
        for layer in np.unique(view.layers):
            rows = view.layers == layer
            importance[rows] /= np.sqrt(np.sum(importance[rows] ** 2)) + 1e-20
        return _ascending(view, importance)


class Fisher:
    """mean (d loss / d gate)^2, the diagonal of the empirical Fisher information.

    Kwon et al. 2022, "A Fast Post-Training Pruning Framework for Transformers", section 4.
    """

    name = "fisher"

    def path(self, view: View) -> Path:
        """See `Guide.path`."""
        return _ascending(view, np.square(view.loss_gradients).mean(axis=1))


# Reach is looked for in so many heads: no more is ever made of it.
LIMIT = 32


def _ascending(view: View, importance: np.ndarray) -> Path:
    order = np.argsort(by_worth(importance, view.worths), kind="stable")
    path = tuple(int(j) for j in view.heads[order])
    return Path(path, predicted_reach(view, path[:LIMIT]))
