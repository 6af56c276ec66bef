"""Curves in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headsearch.callbacks.base import Callback, figures, found, missing


class TensorBoard(Callback):
    """Writes heads removed, metric, loss and bounds, by evaluations, and the result as text.

    Args:
        folder: where event files go; one of its own for each search.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing("tensorboard") from None
        self._make, self._folder = SummaryWriter, str(folder)
        self._writer: Any = None

    def on_expansion(self, step: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if self._writer is None:  # not before: a search that is refused leaves no file
            self._writer = self._make(self._folder)
        for name, value in figures(step).items():
            self._writer.add_scalar(f"search/{name}", value, int(step["evaluations"]))
        self._writer.flush()  # to be seen now, and kept should the search fail

    def on_end(self, result: Any) -> None:
        """See `Callback`."""
        writer, self._writer = self._writer, None
        for name, value in found(result).items():
            writer.add_scalar(f"result/{name.removeprefix('result_')}", value)
        writer.add_text("result", f"```\n{result}\n```")
        writer.close()
