"""A finished run's folder, made up: what a report needs of one, of any size."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from headsearch.heads import HeadMap, HeadSet
from headsearch.run.config import RunConfig

EXAMPLES = 2000
BASE = 1700


def _score(removed: int, luck: int) -> dict[str, Any]:
    correct = BASE - removed // 4 + luck
    return {"metric": correct / EXAMPLES, "loss": 0.4 + 0.001 * removed, "correct": correct}


def make_run(folder: Path, shape: HeadMap, evaluations: int, **asked: Any) -> dict[str, Any]:
    """Write the files of a run whose expansions score single removals; return its result.

    Args:
        folder: is made.
        shape: the model's heads.
        evaluations: scored sets, in the transcript.
        asked: what the run was asked besides model and data.
    """
    folder.mkdir(parents=True)
    dice = random.Random(0)
    order = list(range(shape.total))
    dice.shuffle(order)
    state, steps, done, points = HeadSet(), list[dict[str, Any]](), 0, []
    while done < evaluations:
        here = _score(len(state), 0)
        scored = [[f"{state.bits:x}", here["metric"], here["loss"], True, EXAMPLES]]
        for head in [h for h in order if h not in state][: evaluations - done - 1]:
            child, score = state.add(head), _score(len(state) + 1, dice.randint(-4, 4))
            scored.append([f"{child.bits:x}", score["metric"], score["loss"], True, EXAMPLES])
        done += len(scored)
        scored.append(["1" * 4, None, None, False, 17])  # one that was given up
        steps.append(
            {
                "step": len(steps),
                "kind": "expansion",
                "removed": shape.pairs(state),
                "g": len(state),
                "h": 3,
                "scored": scored,
                "best": [len(state), here["metric"], here["loss"]],
                "bound": {"heads": shape.total},
                "evaluations": done,
            }
        )
        points.insert(
            0, {"removed": shape.pairs(state), "heads_removed": len(state), "saved": 1, **here}
        )
        for head in [h for h in order if h not in state][: max(1, shape.total // 25)]:
            state = state.add(head)
    best = points[0]
    result = {
        "format": 1,
        "headsearch": "0.0.0",
        "metric": "accuracy",
        "max_drop": 0.05,
        "threshold": 0.8,
        "examples": EXAMPLES,
        "layers": shape.layers,
        "heads": shape.total,
        "baseline": _score(0, 0),
        "best": best,
        "operating_points": points,
        "certificate": {
            "verified": True,
            "bound": {"heads": shape.total, "optimal": False},
            "population": {"offered": False, "reason": "no certify examples were given"},
        },
        "stopped": "evaluation budget spent",
        "evaluations": evaluations,
        "expansions": len(steps),
        "gradient_passes": 9,
        "memo_hits": 0,
        "wall_seconds": 12.5,
        "engine": {"name": "inline", "workers": 1},
        "environment": {"torch": "0.0", "commit": "abc123"},
    }
    config = RunConfig(model="./a model", data="dev.csv", **asked)
    files = {
        "config.json": {"format": 1, "fingerprint": "f" * 64, "asked": config.to_json()},
        "result.json": result,
        "mask.json": shape.to_mask(shape.from_pairs(best["removed"])),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    lines = [json.dumps(step) + "\n" for step in steps]
    (folder / "transcript.jsonl").write_text("".join(lines))
    return result
