"""Checks of a model family, for those that come with headsearch and for one's own.

    import headsearch
    from headsearch.testing import check_family

    headsearch.register_family(MyFamily())
    check_family(tiny_model, batches)  # AssertionError says what does not hold

With pytest, `@pytest.mark.parametrize("check", checks_for(tiny_model, batches), ids=str)` makes a
test of each, which calls `check.run(tiny_model, batches)`.
"""

from __future__ import annotations

from headsearch.testing.conformance import CHECKS, Check, check_family, checks_for
from headsearch.testing.table import capabilities_of, capability_table

__all__ = [
    "CHECKS",
    "Check",
    "capabilities_of",
    "capability_table",
    "check_family",
    "checks_for",
]
