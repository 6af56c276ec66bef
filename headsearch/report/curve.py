"""A curve in text: heads removed against metric."""

from __future__ import annotations

from collections.abc import Sequence

ROWS = 6
# How far the picture reaches below what is asked, as a share of what it shows above.
BELOW = 0.5
DOT, ASKED = "•", "┄"


def curve_lines(
    points: Sequence[tuple[int, float]], total: int, asked: float, labels: Sequence[str], width: int
) -> list[str]:
    """Draw the largest metric with at least so many heads removed, over a line for what is asked.

    Points far below the line are left out.

    Args:
        points: (heads removed, metric); none must have both more heads and a larger metric than
            another.
        total: all heads, the right end.
        asked: the threshold.
        labels: what to write beside the largest metric and beside the line.
        width: of the picture, in columns.

    Returns:
        `ROWS` lines and one of numbers of heads; none where there is no point.
    """
    if not points:
        return []
    margin = max(map(len, labels))
    columns = max(2, min(width - margin - 3, 2 * total + 1))
    high = max(max(metric for _, metric in points), asked)
    reach = (high - asked) * (1 + BELOW)
    rows = [[" "] * columns for _ in range(ROWS)]

    def row_of(metric: float) -> int:
        if not reach:  # the largest metric is what is asked
            return 0 if metric >= asked else ROWS
        return round((high - metric) / reach * (ROWS - 1))

    line = row_of(asked)
    rows[line] = [ASKED] * columns
    for column in range(columns):
        heads = column * total / (columns - 1)
        best = max((metric for count, metric in points if count >= heads), default=None)
        if best is not None and (row := row_of(best)) < ROWS:
            rows[row][column] = DOT
    beside = {line: labels[1], 0: labels[0]}
    drawn = [
        f"{beside.get(row, ''):>{margin}} {'┤' if row in beside else '│'}{''.join(cells)}".rstrip()
        for row, cells in enumerate(rows)
    ]
    middle, last = str(total // 2), str(total)
    at = round(total // 2 * (columns - 1) / total) if total else 0
    scale = "0".ljust(at) + middle
    scale = scale.ljust(columns - len(last)) + last
    return [*drawn, " " * (margin + 2) + scale]
