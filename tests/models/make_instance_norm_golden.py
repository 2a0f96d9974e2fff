"""Make instance_norm_golden.json with the real tensorflow-addons layer.

It cannot run beside TensorFlow >= 2.16; in an environment of its own (Python 3.11):

    pip install tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0
    python tests/models/make_instance_norm_golden.py
"""

import json
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

rng = np.random.default_rng(2024)
x = np.round(rng.normal(1.0, 2.0, (2, 3, 4, 2, 3)), 3).astype("f4")
gamma, beta = np.array([1.5, 0.5, -1.0], "f4"), np.array([0.1, 0.0, 2.0], "f4")
layer = tfa.layers.InstanceNormalization(epsilon=1e-5)
layer.build(x.shape)
layer.set_weights([gamma, beta])
golden = {
    "source": f"tensorflow-addons {tfa.__version__} InstanceNormalization(epsilon=1e-5) on TensorFlow {tf.__version__}",
    "shape": x.shape,
    "input": x.ravel().tolist(),
    "gamma": gamma.tolist(),
    "beta": beta.tolist(),
    "output": np.asarray(layer(x)).ravel().astype(float).tolist(),
}
path = pathlib.Path(__file__).parent / "instance_norm_golden.json"
path.write_text(json.dumps(golden) + "\n")
