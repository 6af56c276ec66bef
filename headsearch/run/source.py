"""Which commit of headsearch is running."""

from __future__ import annotations

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def commit() -> str | None:
    """Return the commit of the checkout that headsearch runs from; None if it is not one.

    A plus follows where the package's files differ from it.
    """
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.SubprocessError):  # no git, or not one that reads this checkout
        return None
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=PACKAGE, capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
