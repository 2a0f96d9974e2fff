"""The notebooks run from top to bottom, with small sizes, in one kernel: TensorFlow takes seconds to be imported."""

import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

from tests.conftest import SETTINGS
from tests.inference import tiny

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


# what the notebook before has named; `%reset` would take from the module what processes of Beam are started with
FORGET = """
for name in [name for name in globals() if name[0] != "_" and name not in ("In", "Out", "exit", "quit", "get_ipython")]:
    del globals()[name]
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    manager = AsyncKernelManager()
    key = {"CYCLESCAN_KEY_FILE": str(tmp_path_factory.mktemp("key") / "key")}
    run_sync(manager.start_kernel)(env=os.environ | key, cwd=str(NOTEBOOKS.parent))
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


def executed(kernel, name, parameters, before_training=""):
    """The outputs of a notebook whose cell of parameters got further lines, and their text.

    With `before_training`, the training cell runs once before, after these lines, and may fail.
    """
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "\n" + "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    if before_training:
        place = next(i for i, cell in enumerate(notebook.cells) if "trainer.train(" in cell.source)
        interrupted = nbformat.v4.new_code_cell(before_training + notebook.cells[place].source)
        interrupted.metadata["tags"] = ["raises-exception"]
        notebook.cells.insert(place, interrupted)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FORGET))
    NotebookClient(notebook, kernel, timeout=300).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return outputs, "".join(output.get("text", "") for output in outputs)


def pictures_of(outputs):
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_your_own_scans(kernel, tmp_path):
    small = {"OUT": str(tmp_path / "own"), "SUBJECTS": 6, "KNEE_SHAPE": (8, 16, 16), "SPLIT": (4, 1, 1)}
    outputs, text = executed(kernel, "02_your_own_scans.ipynb", small)
    assert pictures_of(outputs) == 2
    assert text.count("sub-0001.nii.gz") == 2  # the listings
    assert "failed: none" in text and "outliers: " in text
    assert (tmp_path / "own/records/qc.html").stat().st_size > 10_000


INTERRUPT = """
import os, signal
from cyclescan.training.loop import Loop

learn = Loop.learn


def interrupted(*given):
    os.kill(os.getpid(), signal.SIGINT)  # as Jupyter's square does
    Loop.learn = learn
    return learn(*given)


Loop.learn = interrupted
"""


def test_train_on_vertex_ai(kernel, tiny_records, tmp_path):
    """An interrupt saves the step in hand, and the same cell goes on from there."""
    small = {
        "RECORDS": str(tiny_records),
        "RUN": str(tmp_path / "run"),
        "STEPS": 3,
        "SETTINGS": [*SETTINGS, "warmup=1", "back_from=1", "precision=mixed_float16"],
        "TENSORBOARD": False,
    }
    outputs, text = executed(kernel, "03_train_on_vertex_ai.ipynb", small, before_training=INTERRUPT)
    assert pictures_of(outputs) == 2
    assert "ok   TensorFlow" in text
    assert "a GPU of 16 GB" in text
    assert [output.ename for output in outputs if output.output_type == "error"] == ["KeyboardInterrupt"]
    assert "interrupted and saved" in text
    assert "checkpoints at [1, 2, 3]" in text
    assert "20000 steps at " in text


def test_how_good_is_it(kernel, tmp_path):
    """The shipped model on a piece of three knees, at the voxels that it knows."""
    small = {"OUT": str(tmp_path / "good"), "KNEES": 3, "KNEE_SHAPE": (16, 32, 32), "SPACING_MM": (3.0, 2.1875, 2.1875)}
    outputs, text = executed(
        kernel, "04_how_good_is_it.ipynb", {**small, "LESIONS": ("acl_tear", "oedema_femur", "effusion")}
    )
    assert pictures_of(outputs) == 5
    assert "failed: none" in text
    assert "nats KL over the body: with noise" in text
    assert "masked: the voxels of the mask alone" in text  # of `evaluate`
    psnr = {
        row.rsplit(maxsplit=3)[0]: float(row.split()[-1])
        for row in text.split("PSNR to truth, dB\n")[1].split("\n")[:3]
    }
    assert psnr["translation"] > max(psnr["of the wrong person"], psnr["doing nothing"])
    assert "acl, predicted: ICC" in text and "acl, source: ICC" in text
    torn = next(row for row in text.splitlines() if row.startswith("sub-0001, acl tear"))
    assert float(torn.split()[-2]) > 0.3 and torn.split()[-1] != "-"  # bright fluid in the true scan
    assert text.split("usual  warning\n")[1].count(" voxels ") == 6  # three knees, each with its lesion and without
    assert {path.suffix for path in (tmp_path / "good/histograms").iterdir()} == {".csv", ".svg", ".pdf"}
    assert (tmp_path / "good/endpoints/endpoints.html").stat().st_size > 10_000


def test_serve(kernel, tmp_path):
    run = tiny.write_run(tmp_path / "run")
    small = {"RUN": str(run.path), "OUT": str(tmp_path / "served"), "KNEE_SHAPE": (8, 16, 16)}
    outputs, text = executed(kernel, "05_serve.ipynb", small)
    assert pictures_of(outputs) == 1
    assert "card.json" in text and "slicer/cyclescan_ciss_to_ct_v1/metadata.json" in text
    differences = [float(part.split()[0]) for part in text.split("largest difference ")[1:]]
    assert len(differences) == 3
    assert max(differences) < 1e-3


def test_first_translation(kernel, tmp_path):
    small = {"OUT": str(tmp_path / "out"), "SUBJECTS": 6, "TEST_SUBJECTS": 2, "SHAPE": (8, 16, 16), "STEPS": 4}
    # one kind of step, which takes seconds to make
    small["SETTINGS"] = [*SETTINGS, "warmup=1", "back_from=1"]
    outputs, text = executed(kernel, "01_first_translation.ipynb", small)
    assert pictures_of(outputs) == 4
    assert "a2b  translated" in text
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    assert (tmp_path / "out" / "saved_models" / "a2b" / "1" / "saved_model.pb").exists()
