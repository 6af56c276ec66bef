"""How many evaluations a search is likely to take, and how long that takes so many workers.

Evaluations. A search begins with rollouts and proposals, which cost about as many evaluations as
there are heads; then every expansion scores the single removals of all heads that are left, and
climbs from there, and `patience` expansions in vain end it. Few heads are left where much can be
removed, all of them where nothing can, so an expansion is taken to cost a quarter of the heads at
least, half of them as a rule, and all of them at most: for 72 heads and the default patience of 4
that is 126 to 396 and 216 as a rule. Searches by a correlation took 256 and 270.

By accuracy most states miss the budget and are given up half way, and most of the work is rounds of
proposals, of which there are about as many whatever the number of heads: 154 and 215 evaluations
with 16 heads (`docs/notebook.ipynb`, of two trainings), 104 and 182 with 48, 129 to 186 with 72. So
the rule there is half an evaluation for each head and 100 more: 40 and a quarter of the heads to
begin with, and 15 and a sixteenth of the heads for each expansion. (Raw figures are in
`benchmarks/results/quality/*.json` and `benchmarks/results/plan/*.json`.) Of models of more than 72
heads nothing was measured.

Time. What doesn't shrink with more workers was fitted by eye, rather too long than too short, to
the efficiencies in `benchmarks/results/scaling_simulated.json`, of 8 to 1,024 GPUs: some 2 seconds,
.3 milliseconds for each example, which the coordinator thinks about, and the work of 6 examples,
since a step ends with the last of its pieces. It agrees with two real workers, which get .93 to
1.01 of what the machine gives two independent processes (`benchmarks/results/scaling_real.json`).
These searches had no proposals yet. Thinking them up takes the driver some .2 seconds for each
evaluation, and .2 milliseconds more for each example: replays of four searches, from their memos
and checks included, took .15 to .51 seconds (`benchmarks/results/plan/*.json`). Their rounds are
small pieces of work, too: two workers were kept busy for .8 of the time, so a quarter is added; of
many workers expect less. Workers on Ray need some seconds to start.
"""

from __future__ import annotations

from dataclasses import dataclass

from headsearch.run.config import RunConfig
from headsearch.task.metric import ACCURACY

# Evaluations before the first expansion, and of each: so many, and a share of the number of heads.
# At least, as a rule, at most.
BEGIN = ((0, 0.75), (0, 1.0), (0, 1.5))
EXPANSION = ((0, 0.25), (0, 0.5), (0, 1.0))
# The same where what misses the budget is given up half way.
BEGIN_GIVEN_UP = ((20, 0.25), (40, 0.25), (80, 1.0))
EXPANSION_GIVEN_UP = ((5, 0.05), (15, 0.0625), (25, 0.5))
# No float holds two to a much larger power.
MOST_POWER = 1000
# Gradients are measured about once for so many heads: two rollouts, after every 12 heads each.
HEADS_PER_GRADIENT = 6
# Seconds of a search that no worker shares, the same for each example, and examples' worth of work.
ALONE, ALONE_PER_EXAMPLE, ALONE_EXAMPLES = 2.0, 0.0003, 6.0
# Seconds that the driver thinks up proposals, for each evaluation, and the same for each example.
PROPOSING, PROPOSING_PER_EXAMPLE = 0.2, 0.0002
# What several workers take longer for rounds of proposals, as they wait for each other.
WAITING = 0.25
# Seconds until the first workers on Ray are up, on one machine.
RAY_SECONDS = 8.0


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
    most = min(most, 2.0 ** min(heads, MOST_POWER))
    begin, expansion = BEGIN, EXPANSION
    if config.metric == ACCURACY:
        begin, expansion = BEGIN_GIVEN_UP, EXPANSION_GIVEN_UP
    values = [
        min(most, first + heads * share + min(ends) * (each + heads * of_each))
        for (first, share), (each, of_each) in zip(begin, expansion, strict=True)
    ]
    values[1:] = [min(most, value + config.bound_evaluations) for value in values[1:]]
    return Range(*values)


def search_seconds(
    work: float, evaluations: float, examples: int, workers: int, proposed: float = 0.0
) -> float:
    """Return how long a search takes once its workers are up.

    Args:
        work: seconds that one worker computes in all.
        evaluations: that are thought up by proposing.
        examples: of the search split.
        workers: like that one.
        proposed: seconds of the work that come in rounds of proposals.
    """
    alone = ALONE + ALONE_PER_EXAMPLE * examples + ALONE_EXAMPLES * work / examples
    if workers > 1:
        work += WAITING * proposed
    return work / workers + alone + evaluations * (PROPOSING + PROPOSING_PER_EXAMPLE * examples)
