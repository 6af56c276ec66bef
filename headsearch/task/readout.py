"""What is scored one by one: examples, their tokens, their labels, or whole sequences."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# One row an example: the logits of its classes, or the value of a regression.
EXAMPLES = "examples"
# One row a labelled token: the logits of its classes.
TOKENS = "tokens"
# One row a label of an example, yes or no: 0 and the label's logit.
LABELS = "labels"
# One row an example: minus the log of how likely a language model finds its tokens.
SEQUENCES = "sequences"


@dataclass(frozen=True)
class Readout:
    """How a batch's rows come of a model's outputs, see `model.readout`.

    Attributes:
        kind: `EXAMPLES`, `TOKENS`, `LABELS` or `SEQUENCES`.
        places: of `TOKENS`, the example and the position of every row, (rows, 2) int64, ascending.
        labels: of `LABELS`, how many an example has.
    """

    kind: str = EXAMPLES
    places: np.ndarray | None = None
    labels: int = 1

    def rows(self, examples: int) -> int:
        """Return how many rows so many examples have."""
        if self.places is not None:
            return len(self.places)
        return examples * self.labels

    def part(self, start: int, stop: int) -> Readout:
        """Return the readout of some of a batch's examples, [start, stop)."""
        if self.places is None:
            return self
        first, last = np.searchsorted(self.places[:, 0], [start, stop])
        return replace(self, places=self.places[first:last] - [start, 0])

    def examples_of_rows(self, examples: int) -> np.ndarray:
        """Return the example that each row belongs to, (rows,), ascending."""
        if self.places is not None:
            return self.places[:, 0]
        return np.repeat(np.arange(examples), self.labels)


# Of examples, whose outputs are scored as they are.
WHOLE = Readout()
