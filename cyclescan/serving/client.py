"""`python -m cyclescan.serving.client`: translate scans on a server of TensorFlow Serving.

The scan is brought to the orientation, voxel size and intensities that the model's card names, and the result back onto
the scan's grid, by the code that `translate` uses; the server does the rest. Over gRPC a volume goes
as the bytes of its voxels; over REST it is JSON, which is for small ones.

The protocol is that of TensorFlow Serving; the server program itself was not run here, see `serving.tf_serving`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cyclescan.artifacts import exports
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common import command
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json
from cyclescan.config import Config
from cyclescan.inference.files_command import add_file_arguments, run_with
from cyclescan.inference.translator import Origin, Progress, Translator
from cyclescan.serving import tf_serving

log = logging.getLogger(__name__)

TIMEOUT_S = 600.0
RETRY_AFTER_S = (0.5, 1.0, 2.0)  # a server that restarts, or a proxy that moves, is back by then
MAX_BYTES = 2**31 - 2**16  # protobuf's limit of a message, less what stands around the voxels
MANY_BYTES = 50_000_000  # of JSON
CARD_ENTRIES = set("version cyclescan_version preset step weights window max_voxels data config checksums".split())
NOT_OURS = "its answer has no output called translated, so its model is not one of cyclescan's."
STATUS_OF_HTTP = {  # as `http_server.cc` of TensorFlow Serving has it
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class ServerError(Exception):
    """What a server or the way to it said: a gRPC status name such as "NOT_FOUND", and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class ModelClient:
    """One model on one server, over the protocol of a subclass: `GrpcClient` or `RestClient`.

    It may be used by several threads.

    Args:
        address: "host:port".
        model: the name that the server knows it by.
        version: None for the newest that is loaded.
        timeout_s: the longest wait for an answer.
    """

    protocol: str  # what it speaks, and what to do about a port that speaks something else
    other_port: str

    def __init__(self, address: str, model: str, version: int | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        self.model = model
        self.version = version
        self.timeout_s = timeout_s

    def predict(self, signature: str, **inputs: np.ndarray) -> tuple[np.ndarray, int]:
        """Send arrays; receive `translated` and the version that made it.

        Args:
            signature: "serving_default", "scaled" or "patches".
            inputs: by name, as the card's signature says, the largest first.

        Raises:
            InputError: there is no server or no such model, it refuses the array, or it takes too long. A server that
                cannot be reached is asked again, `RETRY_AFTER_S`.
        """
        # of numbers that are not whole the graph takes float32 alone
        typed = {k: np.asarray(v, np.float32 if np.asarray(v).dtype.kind == "f" else None) for k, v in inputs.items()}
        array = next(iter(typed.values()))
        count = array.nbytes
        if count > MAX_BYTES:
            raise InputError(
                f"An array of {_size(array)} is {_megabytes(count)} MB; a message to a server holds at most "
                f"{_megabytes(MAX_BYTES)} MB. Translate it here with cyclescan translate."
            )
        return self._patiently(lambda: self._predict(signature, typed), _size(array), count)

    def status(self) -> dict[int, str]:
        """Return the state of each version the server knows: START, LOADING, AVAILABLE, UNLOADING or END.

        Raises:
            InputError: there is no server or no such model.
        """
        return self._patiently(self._status)

    def _predict(self, signature: str, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, int]:
        raise NotImplementedError

    def _status(self) -> dict[int, str]:
        raise NotImplementedError

    def _patiently(self, call: Callable, size: str = "", count: int = 0):
        waits = iter(RETRY_AFTER_S)
        while True:
            try:
                return call()
            except ServerError as failure:
                wait = next(waits, None) if failure.code == "UNAVAILABLE" else None
                if wait is None:
                    raise InputError(self._sentence(failure, size, count)) from failure
                time.sleep(wait)

    def _sentence(self, failure: ServerError, size: str, count: int) -> str:
        version = "" if self.version is None else f" in version {self.version}"
        said = " ".join(failure.detail.split()) or failure.code
        return {
            "PROTOCOL": f"What answers at {self.address} does not speak {self.protocol}; {self.other_port}.",
            "UNAVAILABLE": f"No server answers at {self.address} ({said}).",
            "NOT_FOUND": f"The server {self.address} has no model {self.model}{version}; it says: {said}",
            "INVALID_ARGUMENT": f"The server {self.address} refuses the request; it says: {said}",
            "DEADLINE_EXCEEDED": f"The server {self.address} gave no answer within {self.timeout_s:g} s; choose a "
            "longer --timeout or a smaller volume.",
            "RESOURCE_EXHAUSTED": f"The server {self.address} has no room for {size or 'the request'} "
            f"({_megabytes(count)} MB); it says: {said} Raise its limit (grpc.max_receive_message_length) or translate "
            "here with cyclescan translate.",
        }.get(failure.code, f"The server {self.address} failed with {failure.code}; it says: {said}")


class GrpcClient(ModelClient):
    """Over gRPC: the bytes of the voxels, up to 2 GiB a message (gRPC's own default is 4 MiB)."""

    protocol = "gRPC"
    other_port = "give the server's port of gRPC (8500 unless it was told another), or add --rest"

    def __init__(self, address: str, model: str, version: int | None = None, timeout_s: float = TIMEOUT_S) -> None:
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

        super().__init__(address, model, version, timeout_s)
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", 500),  # so that each of `RETRY_AFTER_S` is a new try
        ]
        self._channel = grpc.insecure_channel(address, options)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def _predict(self, signature, inputs):
        import tensorflow as tf

        request = tf_serving.predict_request(self.model, signature, inputs, self.version)
        response = self._call(self._predictions.Predict, request)
        if "translated" not in response.outputs:
            raise ServerError("INTERNAL", NOT_OURS)
        return tf.make_ndarray(response.outputs["translated"]), response.model_spec.version.value

    def _status(self):
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.model
        response = self._call(self._models.GetModelStatus, request)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {status.version: states.Name(status.state) for status in response.model_version_status}

    def _call(self, method, request):
        import grpc

        try:
            return method(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            # what gRPC says of an HTTP server; it has no code for it
            code = "PROTOCOL" if "HTTP/2" in (error.details() or "") else error.code().name
            raise ServerError(code, _said(error.details())) from error


class RestClient(ModelClient):
    """Over REST: JSON in the column format (`inputs`), because in the row format all inputs need a batch axis.

    Bodies are not compressed: TensorFlow Serving unpacks at most 100 MB.
    """

    protocol = "HTTP"
    other_port = "give the server's port of REST (8501 unless it was told another), or leave --rest away"

    def _predict(self, signature, inputs):
        lists = {name: array.tolist() for name, array in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": lists}).encode()
        if len(body) > MANY_BYTES:
            array = next(iter(inputs.values()))
            log.warning(
                "%s are %d MB as JSON; gRPC sends %d MB.", _size(array), len(body) // 10**6, array.nbytes // 10**6
            )
        version = self._newest() if self.version is None else self.version
        try:
            answer = self._call(f"/versions/{version}:predict", body)
        except ServerError as failure:
            if failure.code == "NOT_FOUND" and self.version is None:
                # replaced by a newer one in between; the next try takes that
                raise ServerError("UNAVAILABLE", failure.detail) from failure
            raise
        if not isinstance(answer.get("outputs"), list):  # an object of several, or none
            raise ServerError("INTERNAL", NOT_OURS)
        return np.asarray(answer["outputs"], np.float32), version

    def _status(self):
        answer = self._call("")
        return {int(status["version"]): status["state"] for status in answer["model_version_status"]}

    def _newest(self) -> int:
        """REST answers do not name the version, so it is chosen here."""
        available = [version for version, state in self._status().items() if state == "AVAILABLE"]
        if not available:
            raise ServerError("UNAVAILABLE", f"no version of {self.model} is loaded")
        return max(available)

    def _call(self, path: str, body: bytes | None = None) -> dict:
        """POST a body, or GET where there is none."""
        request = urllib.request.Request(
            f"http://{self.address}/v1/models/{urllib.parse.quote(self.model)}{path}",
            body,
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise ServerError(STATUS_OF_HTTP.get(error.code, f"HTTP {error.code}"), _said(_error_of(error))) from error
        except TimeoutError as error:
            raise ServerError("DEADLINE_EXCEEDED", str(error)) from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            # an answer, but none of HTTP; a server that hangs up says nothing
            if isinstance(reason, http.client.BadStatusLine) and not isinstance(reason, ConnectionError):
                raise ServerError("PROTOCOL", "") from error
            code = "DEADLINE_EXCEEDED" if isinstance(reason, TimeoutError) else "UNAVAILABLE"
            raise ServerError(code, str(reason) or type(reason).__name__) from error
        except ValueError as error:
            raise ServerError("INTERNAL", f"its answer is not JSON ({error}).") from error


class RemoteTranslator(Translator):
    """A model on a server, used like one that is here: `batch.translate_file` and `translate_files` take it.

    It scales intensities itself, so that `guard` and `restore` are those of every translator, and asks for `scaled`.

    Args:
        client: the connection.
        card: a model folder or a version folder, whose checksums are then verified; or a card.json alone.
        direction: "a2b" or "b2a", what the model translates.

    Raises:
        InputError: there is no card, it is of the other direction, or a file of the folder is missing or altered.
    """

    def __init__(self, client: ModelClient, card: str | Path, direction: str) -> None:
        if direction not in DIRECTIONS:
            raise InputError(f"The direction is {direction!r}; allowed is {' or '.join(DIRECTIONS)}.")
        self.client = client
        self._path = Path(card)
        facts = _read_card(self._path, direction)
        super().__init__(
            self._ask,
            Config.from_dict(facts["config"]),
            facts["data"],
            direction,
            _origin(client, facts),
            facts["window"],
        )

    def _ask(self, array: np.ndarray, window, overlap, progress: Progress | None) -> np.ndarray:
        """What `translate_array` calls.

        Raises:
            InputError: see `ModelClient.predict`; or the server has another version than the card's, or another model.
        """
        result, version = self.client.predict(
            "scaled", volume=array, window=np.asarray(window, np.int32), overlap=np.asarray(overlap, np.float32)
        )
        if str(version) != self.origin.version:
            self._follow(version)
        if result.shape != array.shape:
            raise InputError(
                f"The server {self.client.address} made {_size(result)} of {_size(array)}; its model "
                f"{self.client.model} is not that of {self._path}."
            )
        if progress:
            progress(1, 1)
        return result

    def _follow(self, version: int) -> None:
        """The server has gone on to another version: so does the card, where the model folder is at hand."""
        of_server = f"The server {self.client.address} answered with version {version} of {self.client.model}"
        path = self._path / self.direction / str(version)
        if not path.is_dir():
            raise InputError(
                f"{of_server}, and {self._path} is of version {self.origin.version}; give the card of that version, "
                f"or ask for --version {self.origin.version}."
            )
        facts = _read_card(path, self.direction)
        if facts["data"] != self.data:
            raise InputError(
                f"{of_server}, which was trained on other data than version {self.origin.version}; start again."
            )
        self.origin = _origin(self.client, facts)
        self.window = tuple(facts["window"])


def _read_card(path: Path, direction: str) -> dict:
    """The card of one direction with the checksums of its version folder, verified where the folder is given."""
    if path.is_dir():
        found = exports.find(path, direction)
        if found is None:
            raise InputError(f"{path} is no exported model: it has neither a {exports.CARD} nor a SavedModel.")
        return found[1]
    card = read_json(path)
    missing = CARD_ENTRIES - set(card)
    if missing:
        raise InputError(f"{path} is not the card of an exported model: it has no {min(missing)}.")
    if card.get("direction", direction) != direction:
        raise InputError(f"{path} is the card of {card['direction']}, not of {direction}.")
    if "direction" not in card:
        folder = f"{direction}/{card['version']}/"
        own = {name.removeprefix(folder): n for name, n in card["checksums"].items() if name.startswith(folder)}
        card["checksums"] = {name: digest for name, digest in own.items() if name != exports.OWN_CARD}
    return card


def _origin(client: ModelClient, card: dict) -> Origin:
    return Origin.of_card(card, f"{client.address}/{client.model}", "served")


def _said(text: str | None) -> str:
    """The sentence within what TensorFlow says: `assertion failed: [It must be 3, not] [4]` and where in the graph."""
    text = text or ""
    found = re.search(r"assertion failed: \[(.*?)\]\s*(\[\[|\n|$)", text)
    return found[1].replace("] [", " ") + "." if found else text.strip()[:400]


def _error_of(error: urllib.error.HTTPError) -> str:
    body = error.read(100_000).decode("utf-8", "replace")
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body or error.reason


def _size(array: np.ndarray) -> str:
    return f"{' x '.join(map(str, array.shape))} voxels"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", required=True, metavar="HOST:PORT", help="usually port 8500 for gRPC, 8501 for REST"
    )
    parser.add_argument("--rest", action="store_true", help="REST instead of gRPC; for small volumes")
    parser.add_argument("--model", required=True, help="name of the model on the server, such as a2b")
    parser.add_argument(
        "--card",
        default=None,
        help="the model folder that is served (its checksums are verified), or its card.json; not for --status",
    )
    parser.add_argument("--direction", default=None, help="a2b or b2a; default: the name of the model")
    parser.add_argument("--version", type=int, default=None, help="default: the newest that the server has")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS", help="for one volume")
    parser.add_argument("--status", action="store_true", help="say which versions the server has, no more")
    add_file_arguments(parser, nargs="?")


def run(arguments: argparse.Namespace) -> int | None:
    if not re.fullmatch(r"[^/\s]+:\d+", arguments.server):
        raise InputError(f"--server is {arguments.server!r}; it must be HOST:PORT, such as localhost:8500.")
    if not arguments.timeout > 0:
        raise InputError(f"--timeout is {arguments.timeout:g}; it must be a positive number of seconds.")

    def connect() -> ModelClient:
        kind = RestClient if arguments.rest else GrpcClient
        return kind(arguments.server, arguments.model, arguments.version, arguments.timeout)

    if arguments.status:
        states = connect().status()
        log.info("%s: %s", arguments.model, ", ".join(f"version {n} is {state}" for n, state in sorted(states.items())))
        return command.DONE if "AVAILABLE" in states.values() else command.SOME_FAILED
    for name in ("input", "output", "card"):
        if getattr(arguments, name) is None:
            raise InputError(f"{'--card' if name == 'card' else name.upper()} is missing; see --help.")
    direction = arguments.direction or arguments.model
    return run_with(lambda: RemoteTranslator(connect(), arguments.card, direction), arguments)


def main(arguments: list[str] | None = None) -> int:
    return command.run(
        "translate scans on a server of TensorFlow Serving.",
        add_arguments,
        run,
        "python -m cyclescan.serving.client",
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
