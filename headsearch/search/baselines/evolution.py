"""Evolution by level switches, at one number of removed heads after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.baselines.base import gap, is_tenth, prefixes, remaining, score, slope_view
from headsearch.search.baselines.greedy import by_loss
from headsearch.search.guides import Michel
from headsearch.search.ledger import Ledger
from headsearch.search.problem import Node

# So many draws for each state that is wanted; where nearly all are known there may be no more.
DRAWS = 20


@dataclass(frozen=True)
class Evolution:
    """EvoPress at a fixed number of removed heads, which rises while something there is feasible.

    Sieberling et al. 2024, "EvoPress: Towards Optimal Dynamic Model Compression via Evolutionary
    Search" (arXiv 2410.14649), and the authors' `evo_drop_search.py`. Among so many heads removed
    at random, the state with the lowest loss becomes the parent. An offspring is the parent after
    the smaller of two random numbers of switches, each of which removes one head and restores
    another, and differs from all others; the best of parent and offspring is the next parent.

    EvoPress is given the number of heads. Here it must be found, so: once a state at a level is
    feasible and `settle` generations have passed, the parent loses `rise` more random heads, in as
    many ways as there are offspring, and the best of these is the parent at the next level. A
    level where nothing is feasible after `generations` is given up for one that is half as far up;
    the method ends where one head more is too much.

    With `seeded` it doesn't begin with random states and no head removed, but with the furthest
    prefix of Michel's order that is feasible, looked for by tenths of all heads and then between
    two of them. EvoPress has no such start; it is there so that evolution isn't left behind where
    evaluations are few.

    Other differences from the source. Fitness is the loss on the labels, which EvoPress offers as
    perplexity; its default is the divergence from the full model's outputs. Every offspring is
    scored on all examples, where EvoPress sorts most out on a sixteenth of the tokens, so that an
    offspring costs more here. There are 16 offspring instead of 32, as an evaluation is of all
    examples. States that were scored before are not drawn again, since nothing new would be learnt.

    Costs, for 72 heads, 64 evaluations at first, 48 for each rise by 4 heads of which the second
    generation is feasible, and up to 496 for a level that is given up.

    Attributes:
        seed: of all random choices.
        initial: states drawn at the first level; as in EvoPress.
        offspring: states drawn in each generation.
        switches: most switches of an offspring; as in EvoPress.
        rises: a rise is this part of all heads.
        settle: generations at a level, even if it is feasible at once.
        generations: most generations at a level.
        seeded: whether it begins where Michel's order leads.
    """

    seed: int = 0
    initial: int = 64
    offspring: int = 16
    switches: int = 3
    rises: int = 18
    settle: int = 2
    generations: int = 30
    seeded: bool = False
    name: str = "evolution"

    def run(self, ledger: Ledger) -> None:
        """See `Baseline.run`."""
        total = ledger.problem.shape.total
        random, drawn = np.random.default_rng(self.seed), set[HeadSet]()
        best = {0: ledger.baseline}  # at each level
        level, rise = 0, max(1, total // self.rises)
        if self.seeded:
            start = self._from_michel(ledger)
            level, drawn = len(start.heads), {start.heads}
            best[level] = start
        while rise and level < total:
            rise = min(rise, total - level)
            if self._evolve(ledger, best, level, level + rise, random, drawn):
                level += rise
            else:
                rise //= 2

    def _from_michel(self, ledger: Ledger) -> Node:
        """Return the furthest feasible state that a search along Michel's order finds."""
        root, total = ledger.baseline.heads, ledger.problem.shape.total
        states = prefixes(root, Michel().path(slope_view(ledger, ledger.baseline)).heads)
        coarse = [state for state in states if is_tenth(state, total)]
        nodes = score(ledger, self.name, [(root, coarse)])
        if between := [states[gone - 1] for gone in gap(nodes)]:
            nodes += score(ledger, self.name, [(root, between)])
        reached = [node for node in nodes if node.feasible]
        return max(reached, key=lambda node: len(node.heads), default=ledger.baseline)

    def _evolve(
        self,
        ledger: Ledger,
        best: dict[int, Node],
        level: int,
        above: int,
        random: np.random.Generator,
        drawn: set[HeadSet],
    ) -> bool:
        """Evolve at the level above, from the best of a level; return whether any is feasible."""
        parent, feasible = best[level], False
        for generation in range(self.generations + 1):
            if feasible and generation > self.settle:
                break
            if generation == 0:
                draw = partial(_raised, ledger, parent.heads, above - level, random)
                states = _distinct(draw, self.offspring if level else self.initial, drawn)
            else:
                parent = best[above]
                draw = partial(self._switched, ledger, parent.heads, random)
                states = _distinct(draw, self.offspring, drawn)
            if states:
                nodes = score(ledger, self.name, [(parent.heads, states)])
                feasible = feasible or any(node.feasible for node in nodes)
                held = [best[above]] if above in best else []
                best[above] = min([*held, *nodes], key=by_loss)
        return feasible

    def _switched(self, ledger: Ledger, state: HeadSet, random: np.random.Generator) -> HeadSet:
        """Return a state after some switches; where no head is left, it has none to switch."""
        for _ in range(min(random.integers(1, self.switches + 1, size=2))):
            gone, there = list(state), remaining(ledger, state)
            if there:
                pair = (gone[random.integers(len(gone))], there[random.integers(len(there))])
                state ^= HeadSet.of(pair)
        return state


def _raised(ledger: Ledger, state: HeadSet, count: int, random: np.random.Generator) -> HeadSet:
    """Return a state with so many more heads removed, at random."""
    more = random.choice(remaining(ledger, state), count, replace=False)
    return state | HeadSet.of(int(j) for j in more)


def _distinct(draw: Callable[[], HeadSet], count: int, drawn: set[HeadSet]) -> list[HeadSet]:
    """Return so many states that were not drawn before, or as many as come up."""
    found: list[HeadSet] = []
    for _ in range(DRAWS * count):
        state = draw()
        if state not in drawn:
            drawn.add(state)
            found.append(state)
        if len(found) == count:
            break
    return found
