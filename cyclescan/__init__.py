"""cyclescan: translate 3-D medical volumes from one contrast to another without paired training data.

What scripts and notebooks need is here by name and imported only when it is asked for:

>>> import cyclescan
>>> scan = cyclescan.read("scan.nii.gz")                                     # doctest: +SKIP
>>> translator = cyclescan.Translator.load("digital-knee", "a2b")            # doctest: +SKIP
>>> cyclescan.write(translator.translate_volume(scan), "translated.nii.gz")  # doctest: +SKIP
"""

import importlib
import os

# oneDNN makes 3-D convolutions on CPUs two to eight times faster, and TensorFlow reads this only while it is
# imported; a value set by the user wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# notes of the graph optimiser about itself are for its developers; errors of a run come as Python exceptions
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.2.0"

NOTICE = "synthetic image, for research and training only, not for clinical use"

# where each public name lives. Training is `fit`, since `cyclescan.train` is the module of a command.
_PUBLIC = {
    "Volume": "cyclescan.scans.volume",
    "read": "cyclescan.scans.volume",
    "write": "cyclescan.scans.volume",
    "Config": "cyclescan.config",
    "preset": "cyclescan.config.presets",
    "fit": "cyclescan.training.trainer",
    "TrainOptions": "cyclescan.training.options",
    "Translator": "cyclescan.inference.translator",
    "show": "cyclescan.reporting.notebook",
}
__all__ = [
    "NOTICE",
    "Config",
    "TrainOptions",
    "Translator",
    "Volume",
    "__version__",
    "fit",
    "preset",
    "read",
    "show",
    "write",
]


def __getattr__(name: str):
    if name in _PUBLIC:
        module = importlib.import_module(_PUBLIC[name])
        return module.train if name == "fit" else getattr(module, name)
    raise AttributeError(f"module 'cyclescan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
