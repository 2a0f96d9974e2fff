"""The files for TensorFlow Serving: read by its own messages, and run as far as that goes without the server."""

import subprocess

import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.files import read_json
from cyclescan.serving import tf_serving
from tests.serving.prediction_service import ModelServer


def test_the_list_of_models(exported):
    config = text_format.Parse(
        (exported / "models.config").read_text(), model_server_config_pb2.ModelServerConfig()
    ).model_config_list.config
    assert [(m.name, m.base_path, m.model_platform) for m in config] == [
        (direction, f"/models/cyclescan/{direction}", "tensorflow") for direction in DIRECTIONS
    ]


def test_batching(exported):
    """The message is not in tensorflow-serving-api; these are its fields in session_bundle_config.proto."""
    fields = {"max_batch_size": 1, "batch_timeout_micros": 2, "max_enqueued_batches": 3, "num_batch_threads": 4}
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", syntax="proto3", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    for name, number in fields.items():
        message.field.add(name=name, number=number, type=11, type_name=".google.protobuf.Int64Value", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))
    parsed = text_format.Parse((exported / "batching.config").read_text(), kind())
    assert all(getattr(parsed, name).value > 0 for name in fields)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_warm_up_requests_are_of_both_signatures(exported, direction):
    path = exported / direction / "1" / tf_serving.WARM_UP
    logs = [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    requests = [log.predict_log.request for log in logs]
    assert {request.model_spec.name for request in requests} == {direction}
    shapes = {
        request.model_spec.signature_name: {key: tf.make_ndarray(value).shape for key, value in request.inputs.items()}
        for request in requests
    }
    window = tuple(read_json(exported / "card.json")["window"])
    assert shapes == {"serving_default": {"volume": window}, "patches": {"patches": (1, *window, 1)}}


def test_compose_and_its_health_check(exported):
    compose = yaml.safe_load((exported / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"whole_volumes", "patches"}
    for name, service in services.items():
        assert service["volumes"] == [".:/models/cyclescan:ro"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in service["command"])
        files = [value for key, value in flags.items() if key.endswith("_file")]
        assert all((exported / file.removeprefix("/models/cyclescan/")).exists() for file in files)
        # joined along the first axis, two whole volumes would become one
        assert ("enable_batching" in flags) == (name == "patches")
    kind, *command = services["whole_volumes"]["healthcheck"]["test"]
    assert (kind, services["patches"]["profiles"]) == ("CMD", ["patches"])
    with ModelServer({direction: exported / direction for direction in DIRECTIONS}) as server:
        # every version loaded has answered its warm-up requests
        assert {(name, version) for name, version, _ in server.models.warmed} == {("a2b", 1), ("b2a", 1)}
        assert len(server.models.warmed) == 4
        assert health(command, server) == 0
        del server.models.loaded["b2a"]
        assert health(command, server) == 1
    assert health(command, server) == 1


def health(command, server) -> int:
    """The health check as compose runs it ($$ is its way to write $), on the port of the stand-in."""
    here = [word.replace("$$", "$").replace("/8501", f"/{server.rest.split(':')[1]}") for word in command]
    return subprocess.run(here, check=False, timeout=10, capture_output=True).returncode
