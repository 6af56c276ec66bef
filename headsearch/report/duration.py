"""Lengths of time in words."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a length of time in two units at most.

    >>> [duration(s) for s in (7.4, 90, 4020, 200000)]
    ['7 s', '1 m 30 s', '1 h 07 m', '2 d 08 h']
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} m {total % 60:02} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02} m"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"
