"""The content of a `progress.json`, made up."""

from __future__ import annotations

from typing import Any


def values(**changed: Any) -> dict[str, Any]:
    """What `Tally.values` gives half way through a search, and the state of the run."""
    return {
        "state": "running",
        "metric": "accuracy",
        "max_drop": 0.01,
        "heads": 72,
        "rows": 1746,
        "baseline": 0.8184,
        "threshold": 0.8087,
        "step": 14,
        "kind": "expansion",
        "g": 44,
        "best": [50, 0.8091, 0.41],
        "bound": {"heads": 72, "assumed": 66, "tested": 40, "violations": 3},
        "evaluations": 120.5,
        "expected": {"low": 126.0, "expected": 216.0, "high": 396.0},
        "computed": 100.0,
        "reused": 20.0,
        "points": [(10, 0.8260), (44, 0.8150), (50, 0.8091), (60, 0.8000)],
        "seconds": 260.0,
        "rate": 0.45,
        "left": {"low": 10.0, "expected": 190.0, "high": 600.0},
        "engine": {"workers": 2.0, "memo_hit_rate": 0.12},
        **changed,
    }


def starting(**changed: Any) -> dict[str, Any]:
    """The same before anything was scored."""
    nothing = {"baseline": None, "threshold": None, "points": [], "best": [0, None, None]}
    begun = {"step": 0, "kind": "starting", "g": 0, "evaluations": 0, "left": None, "engine": {}}
    return values(**{**nothing, **begun, "rate": 0.0, "seconds": 2.0, **changed})
