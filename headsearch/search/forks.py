"""Processes that are forked off one that searches."""

from __future__ import annotations

import os
from collections.abc import Callable


def when_forked(renew: Callable[[], None]) -> None:
    """Have every process that is forked off renew what rests on threads: it has none of them."""
    if hasattr(os, "register_at_fork"):  # which Windows lacks
        os.register_at_fork(after_in_child=renew)
