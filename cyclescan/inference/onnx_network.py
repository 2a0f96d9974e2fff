"""An exported ONNX file as a network for whole volumes, by onnxruntime: nothing here needs TensorFlow.

The file's own normalisations take the statistics of what it is given, so a volume given in one piece, of whatever size,
has those of the whole volume, and the result is that of `inference.whole_volume`. The price is memory for all feature
maps at once: for scans that do not fit, translate with a run or a SavedModel, which work window by window.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cyclescan.common.errors import InputError

SUFFIX = ".onnx"
NEEDED = ("direction", "version", "weights", "step", "preset", "cyclescan_version")
NEEDED_JSON = ("data", "config")


def load(path: Path) -> tuple[Callable[..., np.ndarray], dict[str, Any]]:
    """Return the network of a file and what its metadata say of it.

    Args:
        path: written by `serving.onnx_graph`, with the metadata of `export`.

    Returns:
        A network as `translator.Network` has it, and the facts: texts, and "data" and "config" of the model.

    Raises:
        InputError: onnxruntime is not installed, or the file is no ONNX file of this version's `export`.
    """
    try:
        import onnxruntime
    except ImportError:
        sentence = f"{path} needs the package onnxruntime; install it with: pip install 'cyclescan[onnx]'."
        raise InputError(sentence) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings of its optimiser are for its developers
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # classes of its own C++ part, which are not in its Python interface
        raise InputError(f"{path} cannot be loaded as an ONNX model ({str(error).splitlines()[0]}).") from error
    facts: dict[str, Any] = dict(session.get_modelmeta().custom_metadata_map)
    if missing := [name for name in (*NEEDED, *NEEDED_JSON) if name not in facts]:
        raise InputError(f"{path} does not say its {missing[0]}; export it again with `export --onnx`.")
    facts |= {name: json.loads(facts[name]) for name in NEEDED_JSON}
    stride = int(facts["edges_multiple_of"])

    def network(array: np.ndarray, _window, _overlap, progress: Callable[[int, int], None] | None) -> np.ndarray:
        # mirrored at both ends to a multiple of the stride, as in `whole_volume`
        extra = [-n % stride for n in array.shape]
        pads = [(n // 2, n - n // 2) for n in extra]
        padded = np.pad(np.asarray(array, np.float32), pads, mode="reflect")
        (result,) = session.run(["translated"], {"patches": padded[None, ..., None]})
        if progress:
            progress(1, 1)  # what runs inside the graph cannot be watched
        inside = tuple(slice(before, before + n) for (before, _), n in zip(pads, array.shape, strict=True))
        return result[0, ..., 0][inside]

    return network, facts
