"""Work for idle workers: what the search is likely to ask next, one small job at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from headsearch.engine.executor import Job
from headsearch.engine.wants import Want

# How many asks are looked at ahead.
ASKS_AHEAD = 4

Cut = Callable[[list[Want], Iterable[int]], Iterator[Job]]


class Ahead:
    """Gives out jobs, likeliest to be asked for first; nothing waits here, so nothing goes stale.

    Args:
        sources: wants of one ask and parent each, likeliest first; looked at when needed.
        cut: makes jobs of wants and pieces.
    """

    def __init__(self, sources: Iterator[list[Want]], cut: Cut) -> None:
        self._sources, self._cut = sources, cut
        self._streams: dict[int, Iterator[Job]] = {}  # of the current source, by shard

    def job(self, shard: int) -> Job | None:
        """Return a job, on the given shard if there is one; None: there is nothing left."""
        while True:
            for home in [shard, *self._streams]:
                job = next(self._streams.get(home, iter(())), None)
                if job is not None:
                    return job
                self._streams.pop(home, None)
            wants = next(self._sources, None)
            if wants is None:
                return None
            # A worker whose own shard has nothing gets something of the first that has.
            places = wants[0].layout.places_of_shard
            self._streams = {home: self._cut(wants, own) for home, own in places.items()}
