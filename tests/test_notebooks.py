"""The notebook runs from top to bottom, with small sizes."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.conftest import SETTINGS

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "01_first_translation.ipynb"


def test_first_translation(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += (
        f"\nOUT, SUBJECTS, TEST_SUBJECTS, SHAPE, STEPS = {str(tmp_path / 'out')!r}, 6, 2, (8, 16, 16), 4"
        f"\nSETTINGS = {[*SETTINGS, 'warmup=1', 'back_from=1']!r}"  # one kind of step, which takes seconds to make
    )
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent.parent)}}).execute()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 4
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "a2b  translated" in text
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "out" / "saved_models" / "a2b" / "1" / "saved_model.pb").exists()
