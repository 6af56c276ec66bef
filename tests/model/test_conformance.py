"""Every family, with whatever is on top, passes the suite that `headsearch.testing` offers."""

from __future__ import annotations

import pytest

from headsearch.model.families import FAMILIES, family_of
from headsearch.testing import CHECKS, Check, checks_for
from tests.tiny_families import CASES, case


@pytest.mark.parametrize("check", CHECKS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_family(name: str, check: Check) -> None:
    model, batches = case(name)
    assert family_of(model).name == CASES[name][0]
    if check in checks_for(model, batches):
        check.run(model, batches)


def test_every_family_and_every_name_that_it_covers_is_a_case() -> None:
    assert {family for family, _, _ in CASES.values()} == {family.name for family in FAMILIES}
    assert {name for family in FAMILIES for name in family.covers} <= CASES.keys()
