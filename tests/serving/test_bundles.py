"""What `export --format` writes translates as `translate` does, as far as is seen without 3D Slicer and MONAI."""

import importlib.util
import json
import pydoc
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jsonschema
import numpy as np
import pytest

from cyclescan import NOTICE
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.inference.translator import Translator
from cyclescan.scans import volume as volumes
from cyclescan.scans.volume import Volume
from cyclescan.serving import bundles

# of MONAI's site, repository Project-MONAI/project-monai.github.io, public/schema/, commit abfc051; Apache-2.0. It is
# what `monai.bundle verify_metadata` checks a bundle against
SCHEMA = Path(__file__).parent / "monai_meta_schema_20240725.json"


@pytest.fixture(scope="module")
def folders(exported, tmp_path_factory):
    copy = shutil.copytree(exported, tmp_path_factory.mktemp("bundles") / "out")
    bundles.write(copy, 1, bundles.FORMATS)
    return {kind: copy / kind / "cyclescan_ciss_to_ct_v1" for kind in bundles.FORMATS}


@pytest.fixture(scope="module")
def scan():
    """An oblique scan of sizes that the network's stride does not divide."""
    affine = np.array([[0, 0, 7.0, -20], [-8.5, 0.4, 0, 30], [0.4, 8.5, 0, -40], [0, 0, 0, 1]])
    return Volume(np.random.default_rng(3).uniform(5, 905, (13, 10, 9)).astype(np.float32), affine, {})


@pytest.fixture(scope="module")
def expected(run, scan):
    return Translator.load(run.path, "a2b").translate_volume(scan)


def same(found, expected):
    assert np.ptp(expected.array) > 100  # a flat result would show nothing
    np.testing.assert_allclose(found.array, expected.array, atol=2e-4 * np.ptp(expected.array))
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-6)  # NIfTI has it in 32 bits


def test_an_onnx_file_translates_a_scan_as_its_run_does(exported, scan, expected):
    """Whole volumes, whatever their size: the statistics of the normalisations are those of the whole."""
    model = exported / "onnx" / "a2b-1.onnx"
    translator = Translator.load(model, "a2b")
    same(translator.translate_volume(scan), expected)
    assert (translator.origin.kind, translator.origin.step, translator.origin.version) == ("onnx", 10, "1")


@pytest.mark.parametrize(
    ("direction", "options", "sentence"),
    [
        ("b2a", {}, "translates a2b, not b2a"),
        ("a2b", {"window": (8, 8, 8)}, "in one piece"),
        ("a2b", {"weights": "best"}, "one set of weights"),
    ],
)
def test_what_an_onnx_file_cannot_do(exported, direction, options, sentence):
    with pytest.raises(InputError, match=sentence):
        Translator.load(exported / "onnx" / "a2b-1.onnx", direction, **options)


def test_a_file_that_is_no_onnx_model_of_ours(tmp_path, monkeypatch):
    (tmp_path / "x.onnx").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be loaded as an ONNX model"):
        Translator.load(tmp_path / "x.onnx", "a2b")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'cyclescan\[onnx\]'"):
        Translator.load(tmp_path / "x.onnx", "a2b")


class Node:
    """What the adapter asks of a volume node of 3D Slicer: an array in the order K, J, I and a matrix."""

    def __init__(self, array=None, affine=None):
        self.array, self.affine = array, affine

    def GetIJKToRASMatrix(self, matrix):  # noqa: N802
        matrix.values = self.affine

    def SetIJKToRASMatrix(self, matrix):  # noqa: N802
        self.affine = matrix.values


@pytest.fixture
def slicer(monkeypatch):
    """Stand-ins for 3D Slicer, VTK and the extension; returns what was registered."""
    registered = {}

    class Base:
        def __init__(self, modelKey, device="cpu"):
            self.modelKey, self.device, self.model = modelKey, device, None

    def register(key):
        return lambda cls: registered.setdefault(key, cls)

    class Matrix:
        def GetElement(self, row, column):  # noqa: N802
            return self.values[row][column]

    util = SimpleNamespace(
        arrayFromVolume=lambda node: node.array,
        updateVolumeFromArray=lambda node, array: setattr(node, "array", array),
    )
    library, base = ModuleType("ModalityConverterLib"), ModuleType("ModalityConverterLib.ModelBase")
    base.BaseModel, base.register_model = Base, register
    given = {"slicer": SimpleNamespace(util=util), "vtk": SimpleNamespace(vtkMatrix4x4=Matrix)}
    for name, module in {**given, library.__name__: library, base.__name__: base}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return registered


def test_the_adapter_of_slicer_translates_on_the_grid_of_the_scan(folders, scan, expected, slicer):
    folder = folders["slicer"]
    ((key, entry),) = read_json(folder / "metadata.json").items()
    assert {"url", "display_name", "description", "module_name"} == entry.keys()
    assert NOTICE in entry["description"]
    spec = importlib.util.spec_from_file_location("adapter", folder / f"{entry['module_name']}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert slicer == {key: getattr(module, entry["module_name"])}
    adapter = slicer[key](key)
    # the extension takes the file whose name begins with the key
    adapter.model = adapter._loadModelFromPath(str(next(folder.glob(f"{key}*"))))
    result = Node()
    adapter.runInference(Node(scan.array.T, scan.affine.tolist()), result)
    same(Volume(result.array.T, np.array(result.affine), {}), expected)
    mask = np.zeros(scan.shape)
    mask[:5] = 1
    adapter.runInference(Node(scan.array.T, scan.affine.tolist()), result, Node(mask.T))
    assert np.unique(result.array.T[5:]).size == 1
    np.testing.assert_allclose(result.array.T[:5], expected.array[:5], atol=2e-4 * np.ptp(expected.array))


def test_metadata_of_the_bundle_pass_monais_schema(folders):
    metadata = read_json(folders["monai"] / "configs" / "metadata.json")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft201909Validator.check_schema(schema)
    jsonschema.validate(metadata, schema, jsonschema.Draft201909Validator)
    assert metadata["schema"].endswith(SCHEMA.name.removeprefix("monai_"))
    del metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    with pytest.raises(jsonschema.ValidationError):  # the schema sees what is missing
        jsonschema.validate(metadata, schema, jsonschema.Draft201909Validator)


def test_inference_of_the_bundle_runs(folders, scan, expected, tmp_path, monkeypatch):
    """MONAI itself needs PyTorch, which is not here: its syntax, `@` and `$` and `_target_`, is resolved by hand."""
    config = read_json(folders["monai"] / "configs" / "inference.json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    (tmp_path / "translated").mkdir()
    volumes.write(scan, tmp_path / "scans" / "sub-1.nii.gz")
    config["bundle_root"] = str(folders["monai"])
    names = {}
    for line in config["imports"]:
        exec(line.removeprefix("$"), names)

    def resolved(value):
        if isinstance(value, dict):
            target = pydoc.locate(value["_target_"])
            return target(**{key: resolved(each) for key, each in value.items() if key != "_target_"})
        if isinstance(value, str) and value.startswith("$"):
            for key in config:
                value = value.replace(f"@{key}", key)
            return eval(value[1:], names)
        return value

    for key in ("bundle_root", "dataset_dir", "output_dir", "network_def", "scans"):
        names[key] = resolved(config[key])
    for step in config["run"]:
        resolved(step)
    same(volumes.read(tmp_path / "translated" / "sub-1.nii.gz"), expected)


def test_what_is_there_is_not_replaced(folders):
    with pytest.raises(InputError, match="cyclescan_ciss_to_ct_v1 exists; choose another --out or --version"):
        bundles.write(folders["monai"].parents[1], 1, ["monai"])
