"""The exact course of the search on frozen small instances, as a gate against silent changes.

Losses are left out: their last digits differ between processors. After a change that is meant,
`python -m tests.search.test_golden` writes the file anew; read its diff.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headsearch.search.astar import Settings, search
from tests.search.lattice import Lattice

FILE = Path(__file__).parent / "golden.json"
INSTANCES: dict[str, dict[str, Any]] = {
    "mild": {"heads_per_layer": (4, 4, 4), "seed": 1, "effect": 0.3, "interaction": 0.05},
    "rugged": {"heads_per_layer": (2, 5, 3), "seed": 2, "effect": 0.6, "interaction": 0.5},
    "free": {"heads_per_layer": (3, 3), "seed": 3, "effect": 0.0, "interaction": 0.0},
}


def course(name: str) -> list[list[Any]]:
    """Each step: kind, expanded state, g, h, the states scored and whether feasible, best."""
    steps: list[dict[str, Any]] = []
    lattice = Lattice(**INSTANCES[name])
    search(lattice.problem, lattice, Settings(max_evaluations=100), on_step=steps.append)
    return [
        [
            step["kind"],
            step["removed"],
            step["g"],
            step["h"],
            [[row[0], row[3]] for row in step["scored"]],
            step["best"][:2],
        ]
        for step in steps
    ]


def test_the_search_takes_the_same_course_as_ever() -> None:
    golden = json.loads(FILE.read_text())
    assert set(golden) == set(INSTANCES)
    for name in INSTANCES:
        assert json.loads(json.dumps(course(name))) == golden[name], name


if __name__ == "__main__":
    lines = [f'"{name}": {json.dumps(course(name))}' for name in INSTANCES]
    FILE.write_text("{" + ",\n".join(lines) + "}\n")
