"""The notebook runs from top to bottom, with a small knee."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_plan_mr_to_xray.ipynb"


@pytest.mark.slow
def test_plan_mr_to_xray(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    detector = {"pixels": 128, "pixel_mm": 1.6, "bone_mm": (2.0, 1.5, 1.5), "soft_mm": (5.0, 5.0, 5.0)}
    parameters.source += f"\nOUT, SHAPE, STARTS, DETECTOR = {str(tmp_path / 'out')!r}, (32, 64, 64), 2, {detector!r}"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent.parent)}}).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    text = "".join(o.get("text", "") for o in outputs)
    assert "left out: ['tibial tunnel']" in text and text.count("core decompression") == 2


def test_outputs_are_stripped():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
