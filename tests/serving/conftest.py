"""One run and its export for all tests of serving; whoever alters a file copies the folder first."""

import pytest

from cyclescan.export import export
from tests.inference import tiny


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("serving") / "run", steps=(5, 10))


@pytest.fixture(scope="session")
def exported(run):
    return export(run.path, run.path.parent / "out", onnx=True)
