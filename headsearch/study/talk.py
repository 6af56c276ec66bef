"""What a search in a thread of its own and those who answer it say to each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from queue import SimpleQueue

import numpy as np

from headsearch.heads import HeadSet
from headsearch.search.astar import Result, Settings, search
from headsearch.search.problem import Ask, Problem, Ready


class _ClosedError(Exception):
    """Ends the search's thread."""


class Talk:
    """An oracle that hands its questions out, and waits for what it is answered.

    The search says one thing at a time and then waits: threads change nothing about its course.
    """

    def __init__(self) -> None:
        self._said: SimpleQueue[list[HeadSet] | Result | Exception] = SimpleQueue()
        self._answers: SimpleQueue[list[np.ndarray] | None] = SimpleQueue()

    def ask(
        self,
        asks: Sequence[Ask],
        ahead: Callable[[], Iterable[Ask]] = tuple,
        ready: Ready = lambda state, answer: None,
    ) -> list[list[np.ndarray]]:
        """See `Oracle`."""
        self.say([state for ask in asks for state in ask.states])
        answers = self._answers.get()
        if answers is None:
            raise _ClosedError
        rest = iter(answers)
        return [[next(rest) for _ in ask.states] for ask in asks]

    def say(self, said: list[HeadSet] | Result | Exception) -> None:
        """Hand a question out, or how the search ended."""
        self._said.put(said)

    def heard(self) -> list[HeadSet] | Result | Exception:
        """Wait for what the search says next."""
        return self._said.get()

    def answer(self, arrays: list[np.ndarray]) -> None:
        """Answer the question that was handed out."""
        self._answers.put(arrays)

    def close(self) -> None:
        """Answer no question any more."""
        self._answers.put(None)


def run(talk: Talk, problem: Problem, settings: Settings) -> None:
    """Search, and say at the end what was found, or what was raised; nothing if closed."""
    try:
        talk.say(search(problem, talk, settings))
    except _ClosedError:
        pass
    except Exception as error:  # raised where the caller asks
        talk.say(error)
