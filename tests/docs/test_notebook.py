"""The notebook runs from its first cell to its last, and is committed with what it showed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_with_outputs_and_nothing_else() -> None:
    notebook = read()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    shown = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 3
    assert any("Removed" in output.get("text", "") for output in shown)
    # No warning, no error, nothing of the machine.
    assert {output.output_type for output in shown} <= {"stream", "display_data"}
    assert {output.name for output in shown if output.output_type == "stream"} == {"stdout"}
    for output in shown:
        text = output.get("text", "")
        assert "/home/" not in text
        assert "site-packages" not in text


# Slow, as it takes over a minute to train and search; the pages' blocks run in `make test`.
# Jupyter's own libraries use what they have deprecated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter_client|zmq|nbclient|tornado).*")
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = read()
    before = [cell.source for cell in notebook.cells]
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # its own asserts say what has to come out
    assert [cell.source for cell in notebook.cells] == before
    assert not any(
        output.output_type == "stream" and output.name == "stderr"
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
