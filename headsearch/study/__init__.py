"""The search for evaluators of one's own: see `ask_tell.Study`."""

from __future__ import annotations

from headsearch.study.ask_tell import Study

__all__ = ["Study"]
