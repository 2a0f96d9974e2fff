"""Run a SavedModel on volumes in a process that has TensorFlow and nothing of ours; see test_saved_model.py.

Usage: python -I isolated.py SAVED_MODEL VOLUMES.npz RESULTS.npz
"""

import sys

BLOCKED = {"cyclescan", "data_prep"}


class Blocker:
    """The development environment puts the repository on the path of every process; this takes it off again."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
try:
    import cyclescan  # noqa: F401
except ModuleNotFoundError:
    pass
else:
    sys.exit("cyclescan can be imported, so this process shows nothing")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

loaded = tf.saved_model.load(sys.argv[1])
signature = loaded.signatures["serving_default"]
results = {}
with np.load(sys.argv[2]) as volumes:
    for name in volumes:
        results[name] = signature(volume=tf.constant(volumes[name]))["translated"].numpy()
np.savez(sys.argv[3], **results)
if BLOCKED & {name.split(".")[0] for name in sys.modules}:
    sys.exit("something of ours was imported")
