"""How many evaluations a search is likely to take, and how long that takes so many workers.

Evaluations. A search begins with rollouts and proposals, which cost about as many evaluations as
there are heads; then every expansion scores the single removals of all heads that are left, and
climbs from there, and `patience` expansions in vain end it. Few heads are left where much can be
removed, all of them where nothing can, so an expansion is taken to cost a quarter of the heads at
least, half of them as a rule, and all of them at most. By accuracy most of what an expansion scores
is given up half way, as it misses the budget: there it is a tenth at least, and a quarter as a
rule. For 72 heads and the default patience of 4 that is 126 to 396 and 216 as a rule, by accuracy
83 to 396 and 144. Real searches by accuracy took 116, 143, 150 and 160 with 72 heads, 104 and 182
with 48; one by a correlation took 308 with 72 (`benchmarks/results/quality/*.json` and
`benchmarks/results/plan/*.json`). That it grows in proportion to the heads follows from how the
search works; of models of more than 72 it was not measured.

Time. What doesn't shrink with more workers was fitted by eye, rather too long than too short, to
the efficiencies in `benchmarks/results/scaling_simulated.json`, of 8 to 1,024 GPUs: some 2 seconds,
.3 milliseconds for each example, which the coordinator thinks about, and the work of 6 examples,
since a step ends with the last of its pieces. It agrees with two real workers, which get .93 to
1.01 of what the machine gives two independent processes (`benchmarks/results/scaling_real.json`).
These searches had no proposals yet. Thinking them up takes the driver some .2 seconds for each
evaluation, and .2 milliseconds more for each example: replays of two searches of 72 heads, from
their memos and checks included, took .14 and .27 seconds (`benchmarks/results/plan.json`). Their
rounds are small pieces of work, too: of many workers expect less.
"""

from __future__ import annotations

from dataclasses import dataclass

from headsearch.run.config import RunConfig
from headsearch.task.metric import ACCURACY

# Evaluations before the first expansion, and of each, as shares of the number of heads.
BEGIN = (0.75, 1.0, 1.5)
EXPANSION = (0.25, 0.5, 1.0)
EXPANSION_GIVEN_UP = (0.1, 0.25, 1.0)  # where what misses the budget is given up half way
# Gradients are measured about once for so many heads: two rollouts, after every 12 heads each.
HEADS_PER_GRADIENT = 6
# Seconds of a search that no worker shares, the same for each example, and examples' worth of work.
ALONE, ALONE_PER_EXAMPLE, ALONE_EXAMPLES = 2.0, 0.0003, 6.0
# Seconds that the driver thinks up proposals, for each evaluation, and the same for each example.
PROPOSING, PROPOSING_PER_EXAMPLE = 0.2, 0.0002


@dataclass(frozen=True)
class Range:
    """Something expected: at least, as a rule, at most."""

    low: float
    expected: float
    high: float

    def to_json(self, digits: int = 1) -> dict[str, float]:
        """Return the three, rounded."""
        return {name: round(value, digits) for name, value in vars(self).items()}


def expected_evaluations(heads: int, config: RunConfig) -> Range | None:
    """Return how many evaluations a search is likely to take.

    Args:
        heads: of the model.
        config: what is asked: patience and budgets.

    Returns:
        None where nothing but a time limit ends it before every set of heads was scored.
    """
    most = float("inf") if config.max_evaluations is None else float(config.max_evaluations)
    ends = [n for n in (config.patience or None, config.max_expansions) if n is not None]
    if not ends:
        return None if most == float("inf") else Range(most, most, most)
    expansion = EXPANSION_GIVEN_UP if config.metric == ACCURACY else EXPANSION
    values = [
        min(most, heads * (begin + min(ends) * each))
        for begin, each in zip(BEGIN, expansion, strict=True)
    ]
    values[1:] = [min(most, value + config.bound_evaluations) for value in values[1:]]
    return Range(*values)


def search_seconds(work: float, evaluations: float, examples: int, workers: int) -> float:
    """Return how long a search takes.

    Args:
        work: seconds that one worker computes in all.
        evaluations: that are thought up by proposing.
        examples: of the search split.
        workers: like that one.
    """
    alone = ALONE + ALONE_PER_EXAMPLE * examples + ALONE_EXAMPLES * work / examples
    return work / workers + alone + evaluations * (PROPOSING + PROPOSING_PER_EXAMPLE * examples)
