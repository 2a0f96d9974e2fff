"""What TensorFlow Serving wants beside the SavedModels: model list, batching, warm-up requests and a compose file.

TensorFlow Serving itself was not run here. Names of flags and fields, default sizes and what its batching does to a
request are those of its source and documentation (https://github.com/tensorflow/serving); the messages are its own,
from the package tensorflow-serving-api, and the tests send them over gRPC to a small stand-in.

Batching of TensorFlow Serving joins requests along the first axis, for every signature of a model at once. That is
right for `patches` and wrong for `serving_default`: two volumes would become one with the slices of both. So the server
that takes whole volumes runs without batching, and the compose file has a second one, with batching, for `patches`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cyclescan.common.files import write_text

MODELS = "models.config"
WARM_UP = "assets.extra/tf_serving_warmup_requests"

# `tensorflow.serving.ModelServerConfig`
MODELS_TEXT = """\
# Models of TensorFlow Serving; of each the newest version is served.
model_config_list {
  config { name: "a2b" base_path: "/models/cyclescan/a2b" model_platform: "tensorflow" }
  config { name: "b2a" base_path: "/models/cyclescan/b2a" model_platform: "tensorflow" }
}
"""

# `tensorflow.serving.BatchingParameters`
BATCHING_TEXT = """\
# Batching of TensorFlow Serving, for the signature `patches` ALONE: it joins requests along their first axis, which
# would make one volume of two in `serving_default`. Requests are joined when their patches have the same edges; the
# result of a patch does not depend on its neighbours in the batch.
max_batch_size { value: 4 }  # patches at once; memory grows with it
batch_timeout_micros { value: 5000 }  # the longest wait for company; a patch takes far longer itself
max_enqueued_batches { value: 64 }  # beyond it the server answers RESOURCE_EXHAUSTED at once
num_batch_threads { value: 2 }  # batches computed at the same time
"""

COMPOSE_TEXT = """\
# docker compose up -d                      whole volumes: gRPC on 8500, REST on 8501
# docker compose --profile patches up -d    and patches, with batching: gRPC on 8510, REST on 8511
#
# TensorFlow Serving has neither passwords nor encryption here, and scans are patients' data: the ports are open to this
# machine alone. Put a proxy with TLS before it when others shall reach it. A new version in this folder is loaded while
# the old one serves. gRPC takes messages of up to 2 GiB, a volume of 500 million voxels; REST is JSON, up to
# twenty bytes a voxel.
x-serving: &serving
  image: tensorflow/serving:${TF_SERVING_VERSION:-2.21.0}
  restart: unless-stopped
  volumes: [".:/models/cyclescan:ro"]
  environment: {TF_ENABLE_ONEDNN_OPTS: "1"}
  healthcheck:
    # the image has bash but no curl
    test:
      - CMD
      - bash
      - -c
      - >-
        for model in a2b b2a; do
        exec 3<>/dev/tcp/127.0.0.1/8501 &&
        printf 'GET /v1/models/%s HTTP/1.0\\r\\n\\r\\n' $$model >&3 &&
        grep -q AVAILABLE <&3 || exit 1; done
    interval: 15s
    timeout: 10s
    start_period: 120s

services:
  whole_volumes:
    <<: *serving
    ports: ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    command:
      - --model_config_file=/models/cyclescan/models.config
      - --file_system_poll_wait_seconds=10
      - --grpc_channel_arguments=grpc.max_receive_message_length=2147483647,grpc.max_send_message_length=2147483647
      - --rest_api_timeout_in_ms=600000
  patches:
    <<: *serving
    profiles: [patches]
    ports: ["127.0.0.1:8510:8500", "127.0.0.1:8511:8501"]
    command:
      - --model_config_file=/models/cyclescan/models.config
      - --file_system_poll_wait_seconds=10
      - --rest_api_timeout_in_ms=600000
      - --enable_model_warmup=false  # its whole volume would be taken for a batch, and refused
      - --enable_batching=true
      - --batching_parameters_file=/models/cyclescan/batching.config
"""

EDITABLE = {"batching.config": BATCHING_TEXT, "compose.yaml": COMPOSE_TEXT}


def write(out: Path) -> None:
    """Write the files of a model folder that are the same for all versions.

    `batching.config` and `compose.yaml` are for whoever runs the server to change: those there are left as they are.
    """
    write_text(out / MODELS, MODELS_TEXT)
    for name, text in EDITABLE.items():
        if not (out / name).exists():
            write_text(out / name, text)


def write_warm_up(folder: Path, model: str, window: Sequence[int]) -> None:
    """Write the requests that the server makes of itself before a version takes its first real one.

    One volume of the size of a window, and one patch: what is slow the first time (tracing shapes, planning memory) has
    happened before a user waits for it.

    Args:
        folder: of one version.
        model: its name.
        window: voxels (depth, height, width).
    """
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    ramp = np.linspace(-1, 1, int(np.prod(window)), dtype=np.float32).reshape(window)
    (folder / WARM_UP).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as writer:
        for signature, name, array in (
            ("serving_default", "volume", ramp),
            ("patches", "patches", ramp[None, ..., None]),
        ):
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(predict_request(model, signature, {name: array}))
            writer.write(log.SerializeToString())


def predict_request(model: str, signature: str, inputs: dict[str, np.ndarray], version: int | None = None):
    """Return a `PredictRequest` of TensorFlow Serving.

    Args:
        model: name of the served model.
        signature: "serving_default" or "patches".
        inputs: arrays by name.
        version: None for the newest one there is.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    return request
