"""The notebooks of examples/ run from top to bottom, on a tiny model in place of the one that they name."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.runs import tiny_runs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SMALL = {"NUM_ROWS": 600, "UPDATES": 2, "CASES": 32}  # at most so many dev cases calibrate: 30 are needed


def cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    """What a cell shows, progress on standard error aside."""
    shown = [o for o in cell.outputs if o.get("name") != "stderr"]
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.name for p in NOTEBOOKS])
def test_a_notebook_is_kept_without_its_outputs(path: Path) -> None:
    for cell in cells(nbformat.read(path, 4)):
        assert (cell.outputs, cell.execution_count) == ([], None), f"{path.name}: clear the outputs before it is kept"


def test_the_first_hour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    book = nbformat.read(EXAMPLES / "first_hour.ipynb", 4)
    [parameters] = [c for c in cells(book) if "parameters" in c.metadata.get("tags", [])]
    names = {line.split(" = ")[0] for line in parameters.source.splitlines()}
    said = {"MODEL": str(tiny_runs.model_folder(tmp_path / "model")), **SMALL}
    assert set(said) == names
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in said.items())
    client = NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    verdict, predicted, base, file, again = (printed(cell) for cell in cells(book)[-5:])
    assert "report.html" in verdict
    assert "the prompt (column 'prompt') is empty" in predicted
    assert "probability=None" in base
    assert file.startswith("ticket,text,answer,probability,unsure,problem")
    assert "num_rows=3, num_problems=1" in file
    assert again.startswith("Run('runs/tickets'")
