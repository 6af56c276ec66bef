"""Small lattices with synthetic outputs, and brute force over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from headsearch.heads import HeadMap, HeadSet
from headsearch.search.problem import GRADIENTS, Ask, Problem, Ready
from headsearch.task.metric import Score, make_objective


class Lattice:
    """An oracle over made-up outputs: linear effects of heads plus pairwise interactions.

    Args:
        heads_per_layer: the shape.
        interaction: size of the pairwise terms; large ones make the metric far from monotone.
        noise: by how much gradients are off what removing a head does.
        idle: whether there are workers that look at what is likely to come next.
    """

    def __init__(
        self,
        heads_per_layer: tuple[int, ...],
        *,
        seed: int = 0,
        examples: int = 40,
        classes: int = 3,
        effect: float = 0.5,
        interaction: float = 0.3,
        max_drop: float = 0.05,
        hardest_first: bool = False,
        noise: float = 0.0,
        idle: bool = True,
    ) -> None:
        random = np.random.default_rng(seed)
        self.shape = HeadMap(heads_per_layer)
        total = self.shape.total
        labels = random.integers(0, classes, examples)
        labels[:classes] = np.arange(classes)
        base = random.normal(size=(examples, classes))
        base[np.arange(examples), labels] += 1.5
        self._base, self._noise, self._idle = base, noise, idle
        self._single = random.normal(size=(total, examples, classes)) * effect
        self._pair = random.normal(size=(total, total, examples, classes)) * interaction
        objective = make_objective("accuracy", labels, classes)
        self.problem = Problem(self.shape, objective, max_drop, hardest_first)
        self.rounds: tuple[int, ...] = (examples // 2, 3 * examples // 4)
        self.questions: list[list[Ask]] = []  # of every call, in order
        self.expected: list[list[Ask]] = []  # what was expected to come next
        self.given: list[tuple[HeadSet, int]] = []  # states and how many examples of each

    def break_off(self, head: int) -> None:
        """Make a head one that can't be removed."""
        self._single[head] *= 15

    def of(self, heads: HeadSet) -> np.ndarray:
        """The outputs of one state, whatever it is asked with."""
        rows = list(heads)
        outputs = self._base + self._single[rows].sum(axis=0)
        for i in rows:
            outputs = outputs + self._pair[i, [j for j in rows if j > i]].sum(axis=0)
        return outputs.astype(np.float32)

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        self.questions.append(list(asks))
        self.expected.append(list(ahead()) if self._idle else [])
        answers = []
        for ask in asks:
            if ask.kind == GRADIENTS:
                answers.append([self.gradients(state) for state in ask.states])
            else:
                answers.append([self.by_rounds(ask, state) for state in ask.states])
        return answers

    def by_rounds(self, ask: Ask, state: HeadSet) -> np.ndarray:
        """The outputs up to the round where the asker gives up."""
        outputs = self.of(state)
        order, ends = np.arange(len(outputs)), self.rounds
        if ask.order is not None:
            order, ends = ask.order.examples, ask.order.ends
        for end in ends:
            examples = np.sort(order[:end])
            if ask.decide is not None and not ask.decide(outputs[examples], examples):
                outputs = outputs[examples]
                break
        self.given.append((state, len(outputs)))
        return outputs

    def gradients(self, state: HeadSet) -> np.ndarray:
        # Interactions are linear in each gate, so that the derivative is the exact difference.
        columns = [
            np.zeros_like(self._base) if j in state else self.of(state) - self.of(state.add(j))
            for j in range(self.shape.total)
        ]
        slopes = np.stack(columns, axis=2)
        off = np.random.default_rng(state.bits).normal(size=slopes.shape) * self._noise
        off[:, :, list(state)] = 0.0
        return (slopes + off).astype(np.float32)


def every_state(shape: HeadMap) -> list[HeadSet]:
    return [HeadSet(bits) for bits in range(1 << shape.total)]


def brute_force(lattice: Lattice) -> tuple[HeadSet, Score]:
    """The feasible state with most heads removed; ties: lower loss, then smaller bitset."""
    objective = lattice.problem.objective
    threshold = objective.threshold(
        objective.score(lattice.of(HeadSet())), lattice.problem.max_drop
    )
    scores = {state: objective.score(lattice.of(state)) for state in every_state(lattice.shape)}
    feasible = [state for state, score in scores.items() if threshold.feasible(score)]
    best = min(feasible, key=lambda s: (-len(s), scores[s].loss, s.bits))
    return best, scores[best]
