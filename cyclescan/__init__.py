"""cyclescan: translate 3-D medical volumes from one contrast to another without paired training data."""

import os

# oneDNN makes 3-D convolutions on CPUs two to eight times faster, and TensorFlow reads this only while it is
# imported; a value set by the user wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# notes of the graph optimiser about itself are for its developers; errors of a run come as Python exceptions
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

__version__ = "0.2.0"

NOTICE = "synthetic image, for research and training only, not for clinical use"
