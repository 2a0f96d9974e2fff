"""A small stand-in for TensorFlow Serving: its own messages over a real gRPC port, and its REST paths over HTTP.

It does what the tests are about as the server's source does it: newest version by folder name, warm-up before a version
takes requests, the old version until the new one is loaded, status codes and the HTTP codes they become. It is not that
server: nothing is batched, and TensorFlow runs in Python.
"""

import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

HTTP_OF_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


class RefusalError(Exception):
    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class Models:
    """The newest version of each model, reloaded when a newer folder appears."""

    def __init__(self, base_paths: dict[str, Path], poll_s: float):
        self.base_paths = base_paths
        self.loaded = {}  # name -> (version, SavedModel); one assignment swaps both
        self.warmed = []  # (name, version, signature) of every warm-up request
        self.load_newest()
        self.stopped = threading.Event()
        self.poll = threading.Thread(target=self._poll, args=(poll_s,), daemon=True)
        self.poll.start()

    def load_newest(self):
        for name, path in self.base_paths.items():
            versions = [int(p.name) for p in path.iterdir() if p.name.isdecimal()]
            if versions and max(versions) != self.loaded.get(name, (None,))[0]:
                model = tf.saved_model.load(str(path / str(max(versions))))
                self._warm_up(name, max(versions), model, path)
                self.loaded[name] = (max(versions), model)

    def _warm_up(self, name, version, model, path):
        records = path / str(version) / "assets.extra" / "tf_serving_warmup_requests"
        for record in tf.data.TFRecordDataset(str(records)) if records.exists() else []:
            request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
            _run(model, request.model_spec.signature_name, request.inputs)
            self.warmed.append((name, version, request.model_spec.signature_name))

    def _poll(self, poll_s):
        while not self.stopped.wait(poll_s):
            self.load_newest()

    def predict(self, name, wanted, signature, inputs):
        """Outputs by name, and the version that made them."""
        version, model = self.loaded.get(name, (None, None))
        if version is None or (wanted is not None and wanted != version):
            which = f"Latest({name})" if wanted is None else f"Specific({name}, {wanted})"
            raise RefusalError("NOT_FOUND", f"Servable not found for request: {which}")
        return _run(model, signature, inputs), version


def _run(model, signature, inputs):
    """Run one signature on `TensorProto`s."""
    if signature not in model.signatures:
        raise RefusalError("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')
    function = model.signatures[signature]
    expected = set(function.structured_input_signature[1])
    if set(inputs) != expected:
        message = f"input size does not match signature: {sorted(inputs)} and {sorted(expected)}"
        raise RefusalError("INVALID_ARGUMENT", message)
    try:
        return function(**{key: tf.constant(tf.make_ndarray(value)) for key, value in inputs.items()})
    except tf.errors.OpError as error:
        raise RefusalError(tf_code(error), error.message) from error


def tf_code(error) -> str:
    return next(code.name for code in grpc.StatusCode if code.value[0] == error.error_code)


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models, delay_s):
        self.models, self.delay_s = models, delay_s

    def Predict(self, request, context):  # noqa: N802
        time.sleep(self.delay_s)
        spec = request.model_spec
        wanted = spec.version.value if spec.HasField("version") else None
        try:
            outputs, version = self.models.predict(
                spec.name, wanted, spec.signature_name or "serving_default", request.inputs
            )
        except RefusalError as refusal:
            context.abort(getattr(grpc.StatusCode, refusal.code), refusal.message)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = spec.name, version
        for key, value in outputs.items():
            response.outputs[key].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


class Status(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models):
        self.models = models

    def GetModelStatus(self, request, context):  # noqa: N802
        if request.model_spec.name not in self.models.loaded:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        version = self.models.loaded[request.model_spec.name][0]
        response.model_version_status.add(version=version, state=AVAILABLE)
        return response


def rest_handler(models, delay_s):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/v1/models/")
            if name not in models.loaded:
                self.answer(404, {"error": f"Could not find any versions of model {name}"})
            else:
                status = {"version": str(models.loaded[name][0]), "state": "AVAILABLE"}
                status["status"] = {"error_code": "OK", "error_message": ""}
                self.answer(200, {"model_version_status": [status]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            time.sleep(delay_s)
            path, _, method = self.path.removeprefix("/v1/models/").partition(":")
            name, _, version = path.partition("/versions/")
            assert method == "predict", self.path
            inputs = {key: tf.make_tensor_proto(np.asarray(value, np.float32)) for key, value in body["inputs"].items()}
            try:
                outputs, _ = models.predict(name, int(version) if version else None, body["signature_name"], inputs)
            except RefusalError as refusal:
                self.answer(HTTP_OF_STATUS[refusal.code], {"error": refusal.message})
                return
            values = {key: value.numpy().tolist() for key, value in outputs.items()}
            # one output goes without its name
            self.answer(200, {"outputs": values if len(values) > 1 else next(iter(values.values()))})

        def answer(self, code, value):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


class ModelServer:
    """Serves the models of a folder until the `with` block ends.

    Args:
        base_paths: folder of the versions of each model.
        max_bytes: largest message that gRPC takes; None for the 2 GiB of TensorFlow Serving.
        delay_s: how long each prediction waits before it starts.
        port: of gRPC; 0 for any that is free.
    """

    def __init__(self, base_paths, max_bytes=None, poll_s=0.1, delay_s=0.0, port=0):
        self.models = Models({name: Path(path) for name, path in base_paths.items()}, poll_s)
        limit = 2**31 - 1 if max_bytes is None else max_bytes
        options = [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", 2**31 - 1)]
        self.grpc_server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Predictions(self.models, delay_s), self.grpc_server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Status(self.models), self.grpc_server)
        self.grpc = f"127.0.0.1:{self.grpc_server.add_insecure_port(f'127.0.0.1:{port}')}"
        self.http_server = ThreadingHTTPServer(("127.0.0.1", 0), rest_handler(self.models, delay_s))
        self.rest = f"127.0.0.1:{self.http_server.server_port}"

    def __enter__(self):
        self.grpc_server.start()
        threading.Thread(target=self.http_server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.models.stopped.set()
        self.models.poll.join()
        self.http_server.shutdown()
        self.http_server.server_close()
        self.grpc_server.stop(None).wait()
