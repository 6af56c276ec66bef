"""What each family can do, as its checks are chosen by."""

from __future__ import annotations

from collections.abc import Sequence

from headsearch.model.families import CAPABILITIES, FAST_PATH, NARROW, SAVE, Family, known_families


def capabilities_of(family: Family) -> dict[str, str | None]:
    """Return {capability: None, or the reason why the family lacks it}."""
    return {
        name: family.limits.get(NARROW if name == SAVE else name)
        if name in (FAST_PATH, NARROW, SAVE)
        else None
        for name in CAPABILITIES
    }


def capability_table(families: Sequence[Family] | None = None) -> str:
    """Return a Markdown table: a row for each family, a column for each capability.

    Args:
        families: default: all that are known.
    """
    lines = [
        f"| family | {' | '.join(CAPABILITIES)} | note |",
        f"|{'---|' * (len(CAPABILITIES) + 2)}",
    ]
    for family in known_families() if families is None else families:
        can = capabilities_of(family)
        cells = ["yes" if can[name] is None else "no" for name in CAPABILITIES]
        name = ", ".join((family.name, *family.covers))
        lines.append(f"| {name} | {' | '.join(cells)} | {family.note} |")
    return "\n".join(lines)
