"""Exported ONNX files in the folders that 3D Slicer and MONAI look for: an adapter class, a bundle.

Both hand a scan to `inference.translator`, which needs onnxruntime in place of TensorFlow there; so what is done to a
scan before and after the network is written once, and the numbers are those of `translate`. The formats are those of
SlicerModalityConverter (README and ModelBase.py of its repository ciroraggio/SlicerModalityConverter, 2026) and of the
MONAI bundle specification (mb_specification.rst, schema of 2024-07-25).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclescan import NOTICE, __version__
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.artifacts.exports import CARD
from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder, read_json, replacing, write_json, write_text

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
PACKAGES = {"cyclescan": __version__, "onnxruntime": "1.20", "nibabel": "5.2"}
INTENDED_USE = f"Research and training: the result is a {NOTICE}."

ADAPTER = """\
# Made by cyclescan {version}: {notice}.
from ModalityConverterLib.ModelBase import BaseModel, register_model


@register_model("{key}")
class {name}(BaseModel):
    def _loadModelFromPath(self, modelPath):
        from cyclescan.inference.translator import Translator

        return Translator.load(modelPath, "{direction}")

    def runInference(self, inputVolume, outputVolume, inputMask=None, showAllFiles=True):
        import numpy as np
        import slicer
        import vtk
        from cyclescan.scans.volume import Volume

        matrix = vtk.vtkMatrix4x4()
        inputVolume.GetIJKToRASMatrix(matrix)
        affine = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
        # Slicer's arrays are in the order K, J, I
        scan = Volume(np.asarray(slicer.util.arrayFromVolume(inputVolume), np.float32).T, affine, {{}})
        translated = self.model.translate_volume(scan).array
        if inputMask is not None:
            inside = slicer.util.arrayFromVolume(inputMask).T > 0
            translated = np.where(inside, translated, translated.min())
        slicer.util.updateVolumeFromArray(outputVolume, np.ascontiguousarray(translated.T))
        outputVolume.SetIJKToRASMatrix(matrix)
        return translated.T
"""


def write(out: Path, version: int, formats: Sequence[str]) -> list[Path]:
    """Write OUT/slicer/ and OUT/monai/ for one exported version.

    Args:
        out: a folder written by `saved_model.write` with `onnx=True`.
        version: which of its versions.
        formats: "slicer", "monai" or both.

    Returns:
        A folder for each format and direction.

    Raises:
        InputError: what would be written is there already, or the folder cannot be written.
    """
    card = read_json(out / CARD)
    written = []
    for kind in formats:
        for direction in DIRECTIONS:
            key = key_of(card, direction)
            folder = out / kind / f"{key}_v{version}"
            if folder.exists():
                raise InputError(f"{folder} exists; choose another --out or --version.")
            make_folder(folder.parent)
            with replacing(folder) as temporary:
                temporary.mkdir()
                model = (out / "onnx" / f"{direction}-{version}.onnx").read_bytes()
                WRITERS[kind](temporary, key, card, direction, model)
            written.append(folder)
    return written


def key_of(card: dict, direction: str) -> str:
    """Return the name of one direction of a model as a Python name, such as cyclescan_ciss_to_dess."""
    about = card["directions"][direction]
    return re.sub(r"\W+", "_", f"cyclescan_{about['source']}_to_{about['target']}".lower())


def _describe(card: dict, direction: str) -> str:
    about = card["directions"][direction]
    return (
        f"{about['source']} to {about['target']}, trained without pairs on volumes of "
        f"{' x '.join(f'{s:g}' for s in card['data']['spacing_mm'])} mm (axes {''.join(card['data']['axes'])}). "
        f"Any orientation and spacing is taken; the result lies on the scan's own grid. It is a {NOTICE}."
    )


def _write_slicer(folder: Path, key: str, card: dict, direction: str, model: bytes) -> None:
    name = "".join(part.capitalize() for part in key.split("_")) + "Model"
    about = card["directions"][direction]
    adapter = ADAPTER.format(version=__version__, notice=NOTICE, key=key, name=name, direction=direction)
    write_text(folder / f"{name}.py", adapter)
    (folder / f"{key}.onnx").write_bytes(model)
    entry = {
        # the extension downloads what it does not find in its folder of models; this file is put there by hand
        "url": f"https://example.org/{key}.onnx",
        "display_name": f"cyclescan: {about['source']} to {about['target']}",
        "description": f"{_describe(card, direction)}<br><b>Licence</b>: {card['licence']}",
        "module_name": name,
    }
    write_json(folder / "metadata.json", {key: entry})


def _write_monai(folder: Path, key: str, card: dict, direction: str, model: bytes) -> None:
    about = card["directions"][direction]
    tensor = {
        "type": "image",
        "format": "magnitude",
        "num_channels": 1,
        # as MONAI writes any size; what the network needs is padded by the translator
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
    }
    metadata = {
        "schema": SCHEMA,
        "version": f"{card['version']}.0.0",
        "changelog": {f"{card['version']}.0.0": f"exported by cyclescan {__version__} at step {card['step']}"},
        "monai_version": "1.4.0",
        # MONAI itself needs it; the network does not
        "pytorch_version": "2.4.0",
        "numpy_version": np.__version__,
        "required_packages_version": PACKAGES,
        "name": key,
        "task": f"Translation of {about['source']} to {about['target']}",
        "description": _describe(card, direction),
        "authors": "whoever trained the model, by cyclescan",
        "copyright": card["licence"],
        "data_type": "nibabel",
        "image_classes": f"{about['source']}, intensities of the scanner as in the source file, or HU for CT",
        "pred_classes": f"{about['target']}, on the scale of the training data, or HU for CT",
        "intended_use": INTENDED_USE,
        "network_data_format": {
            "inputs": {"image": {**tensor, "modality": about["source"], "channel_def": {"0": about["source"]}}},
            "outputs": {"pred": {**tensor, "modality": about["target"], "channel_def": {"0": about["target"]}}},
        },
    }
    inference = {
        "imports": ["$from pathlib import Path", "$from cyclescan.inference import batch"],
        "bundle_root": ".",
        "dataset_dir": "scans",
        "output_dir": "translated",
        "network_def": {
            "_target_": "cyclescan.inference.translator.Translator.load",
            "model": "$@bundle_root + '/models/model.onnx'",
            "direction": direction,
        },
        "scans": "$sorted(Path(@dataset_dir).glob('*.nii.gz'))",
        "run": ["$[batch.translate_file(@network_def, scan, Path(@output_dir) / scan.name) for scan in @scans]"],
    }
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    (folder / "models" / "model.onnx").write_bytes(model)
    write_json(folder / "configs" / "metadata.json", metadata)
    write_json(folder / "configs" / "inference.json", inference)
    limits = "\n".join(f"- {limit}" for limit in card["limits"])
    write_text(folder / "docs" / "README.md", f"# {key}\n\n{_describe(card, direction)}\n\n## Limits\n\n{limits}\n")


WRITERS = {"slicer": _write_slicer, "monai": _write_monai}
FORMATS = tuple(WRITERS)
