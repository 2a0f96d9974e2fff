"""The client against a stand-in for TensorFlow Serving, over real connections: numbers, refusals, load, a swap."""

import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from cyclescan import NOTICE
from cyclescan.artifacts import checkpoints, exports
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.common.files import read_json, write_json
from cyclescan.export import export
from cyclescan.inference.batch import translate_file
from cyclescan.inference.translator import Translator
from cyclescan.scans.volume import Volume
from cyclescan.serving import client
from cyclescan.serving.client import GrpcClient, RemoteTranslator, RestClient
from tests.inference import tiny
from tests.serving.prediction_service import ModelServer

TOLERANCE = 1e-4 * 2500  # of the range of HU that a2b makes
OBLIQUE = np.array([[-6.0, 0.5, 0, 90], [0.5, 6.0, 0, -80], [0, 0, -9.0, 40], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def server(exported):
    with ModelServer({direction: exported / direction for direction in DIRECTIONS}) as server:
        yield server


@pytest.fixture(scope="module")
def scan(run):
    path = run.path.parent / "knee.nii.gz"
    nib.Nifti1Image(tiny.head((30, 27, 13), 3), OBLIQUE).to_filename(path)
    return path


def connect(server, transport="grpc", model="a2b", **options):
    return {"grpc": GrpcClient, "rest": RestClient}[transport](getattr(server, transport), model, **options)


def main(server, transport, *arguments):
    rest = ["--rest"] if transport == "rest" else []
    return client.main(["--server", getattr(server, transport), *rest, *map(str, arguments)])


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_nifti_goes_and_a_nifti_comes(run, exported, server, scan, tmp_path, transport):
    output = tmp_path / "result.nii.gz"
    assert main(server, transport, "--model", "a2b", "--card", exported, scan, output) == 0
    translate_file(Translator.load(run.path, "a2b"), scan, tmp_path / "here.nii.gz")
    served, here = nib.load(output), nib.load(tmp_path / "here.nii.gz")
    assert np.ptp(here.get_fdata()) > 500  # a flat image would show nothing
    assert np.abs(served.get_fdata() - here.get_fdata()).max() < TOLERANCE
    np.testing.assert_array_equal(served.affine, here.affine)
    assert served.header["descrip"] == here.header["descrip"]
    assert NOTICE[:40] in str(served.header["descrip"])
    facts = read_json(tmp_path / "result.json")
    expected = read_json(tmp_path / "here.json")
    same = ("notice", "direction", "source", "target", "input_sha256", "settings", "step", "working_spacing_mm")
    assert {key: facts[key] for key in same} == {key: expected[key] for key in same}
    assert (facts["model"], facts["model_kind"], facts["version"]) == (
        f"{getattr(server, transport)}/a2b",
        "served",
        "1",
    )
    assert facts["model_sha256"] == Translator.load(exported, "a2b").origin.sha256


def test_a_folder_with_a_bad_file(exported, server, scan, capsys, tmp_path):
    """What `translate` does with a folder, the client does; the card alone is enough."""
    (tmp_path / "scans").mkdir()
    shutil.copy(scan, tmp_path / "scans" / "good.nii.gz")
    (tmp_path / "scans" / "bad.nii").write_bytes(b"no NIfTI")
    given = ["--model", "b2a", "--card", exported / "card.json", tmp_path / "scans", tmp_path / "out"]
    assert main(server, "grpc", *given) == 1
    assert re.search("failed: .*bad.nii", capsys.readouterr().err)
    facts = read_json(tmp_path / "out" / "good.json")
    assert (facts["source"], facts["target"], facts["direction"]) == ("ct", "ciss", "b2a")
    assert facts["model_sha256"] == Translator.load(exported, "b2a").origin.sha256


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_a_model_of_others_is_told_apart(tmp_path, transport):
    module = tf.Module()
    spec = tf.TensorSpec((None, None, None), tf.float32, name="volume")
    module.double = tf.function(lambda volume: {"x": volume * 2, "y": volume}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.double)
    with ModelServer({"a2b": tmp_path}) as server:
        with pytest.raises(InputError, match="no output called translated, so its model is not one of cyclescan's"):
            connect(server, transport).predict("serving_default", volume=np.ones((2, 2, 2)))
        with pytest.raises(InputError, match="refuses the request; it says: Serving signature name"):
            connect(server, transport).predict("patches", patches=np.ones((1, 4, 4, 4, 1)))


def test_patches(run, server):
    patches = np.random.default_rng(0).uniform(-1, 1, (3, 8, 4, 12, 1)).astype(np.float32)
    result, version = connect(server).predict("patches", patches=patches)
    assert version == 1
    np.testing.assert_allclose(result, checkpoints.load_generator(run, "a2b")(patches), atol=1e-5)


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (np.ones((4, 4)), r"must have 3 axes \(depth, height, width\); the number of axes is 2\."),
        (np.where(np.arange(64) == 5, np.nan, np.arange(64)).reshape(4, 4, 4), r"NaN or infinite voxels is 1\."),
        (np.full((4, 4, 4), 7.0), r"constant; a scan must vary. Every voxel is 7\."),
        (np.zeros((2, 1024, 1024)), r"too large: at most 2000000 voxels are allowed; it has 2097152\."),
    ],
)
def test_a_bad_volume_is_an_invalid_argument_with_a_sentence(server, transport, volume, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        connect(server, transport).predict("serving_default", volume=volume)
    assert refused.value.__cause__.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("assertion failed: [It must have 3 axes; got] [4]\n\t [[{{node f/Assert}}]]", "It must have 3 axes; got 4."),
        ("x: assertion failed: [The shape is] [0 4 4] [[{{node f}}]] [[y]]", "The shape is 0 4 4."),
        ("Servable not found for request: Latest(x)", "Servable not found for request: Latest(x)"),
        (None, ""),
    ],
)
def test_the_sentence_is_found_in_what_tensorflow_says(text, sentence):
    assert client._said(text) == sentence


def test_an_empty_volume_and_bad_patches(server):
    with pytest.raises(InputError, match=r"The volume is empty; its shape is 0 4 4\.") as refused:
        connect(server).predict("serving_default", volume=np.zeros((0, 4, 4)))
    assert refused.value.__cause__.code == "INVALID_ARGUMENT"
    with pytest.raises(InputError, match=r"positive multiple of 4; got 1 4 6 4 1\.") as refused:
        connect(server).predict("patches", patches=np.ones((1, 4, 6, 4, 1)))
    assert refused.value.__cause__.code == "INVALID_ARGUMENT"


def test_sizes(exported, server):
    """gRPC's own limit is 4 MiB each way: here 5 MiB go and come; a server with a limit says so; 2 GiB are too many."""
    patch = np.random.default_rng(0).uniform(-1, 1, (1, 20, 256, 256, 1)).astype(np.float32)
    assert connect(server).predict("patches", patches=patch)[0].shape == patch.shape
    with ModelServer({"a2b": exported / "a2b"}, max_bytes=1_000_000) as small:
        sentence = r"no room for 1 x 20 x 256 x 256 x 1 voxels \(5 MB\); .* larger than max \(\d+ vs. 1000000\)"
        with pytest.raises(InputError, match=sentence) as refused:
            connect(small).predict("patches", patches=patch)
        assert refused.value.__cause__.code == "RESOURCE_EXHAUSTED"
    with pytest.raises(
        InputError, match="1024 x 1024 x 512 voxels is 2147 MB; a message to a server holds at most 2147"
    ):
        connect(server).predict("serving_default", volume=np.broadcast_to(np.float32(1), (1024, 1024, 512)))


def test_json_of_a_large_volume_is_warned_about(server, monkeypatch, caplog):
    monkeypatch.setattr(client, "MANY_BYTES", 1000)
    connect(server, "rest").predict("serving_default", volume=tiny.head((8, 16, 16)))
    assert "8 x 16 x 16 voxels are 0 MB as JSON; gRPC sends 0 MB" in caplog.text


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_no_server_no_model_no_time(exported, server, monkeypatch, transport):
    volume = tiny.head((8, 16, 16))
    with pytest.raises(InputError, match=r"has no model c2d; it says: (Servable not found|Could not find)"):
        connect(server, transport, "c2d").predict("serving_default", volume=volume)
    with pytest.raises(InputError, match="has no model a2b in version 9; it says: Servable not found"):
        connect(server, transport, version=9).predict("serving_default", volume=volume)
    with ModelServer({"a2b": exported / "a2b"}, delay_s=2) as slow:
        with pytest.raises(InputError, match=r"no answer within 0\.3 s; choose a longer --timeout"):
            connect(slow, transport, timeout_s=0.3).predict("serving_default", volume=volume)
    monkeypatch.setattr(client, "RETRY_AFTER_S", (0.01, 0.01))
    with pytest.raises(InputError, match=r"No server answers at 127\.0\.0\.1:\d+ \(.*refused"):
        connect(slow, transport).status()


def test_a_server_that_comes_back_is_waited_for(exported, monkeypatch):
    monkeypatch.setattr(client, "RETRY_AFTER_S", (0.5,) * 60)  # a busy machine takes its time to load the model
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    volume = tiny.head((8, 16, 16))
    with ThreadPoolExecutor(1) as pool:
        asked = GrpcClient(f"127.0.0.1:{port}", "a2b")
        answer = pool.submit(asked.predict, "serving_default", volume=volume)
        time.sleep(0.2)
        with ModelServer({"a2b": exported / "a2b"}, port=port):
            assert answer.result()[0].shape == volume.shape


def test_ten_clients_at_once(run, server):
    translator = Translator.load(run.path, "a2b")
    volumes = [tiny.head((7 + i, 20 - i, 16), i) for i in range(10)]
    clients = [connect(server, "rest" if i % 5 == 0 else "grpc") for i in range(10)]

    def ask(i):
        return [clients[i].predict("serving_default", volume=volumes[i])[0] for _ in range(3)]

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    for volume, answered in zip(volumes, answers, strict=True):
        affine = np.array([[8.0, 0, 0, 0], [0, 0, 8, 0], [0, 8, 0, 0], [0, 0, 0, 1]])
        expected = translator.translate_volume(Volume(volume, affine)).array
        for result in answered:
            assert np.abs(result - expected).max() < TOLERANCE


def test_a_version_is_swapped_under_load_without_a_failed_request(run, exported, scan, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(exported, out)
    newer = export(run.path, tmp_path / "newer", version=2, weights=5)
    volume = tiny.head((8, 16, 16))
    answers, stop = [], threading.Event()

    def ask(transport):
        asked = connect(server, transport)
        while not stop.is_set():
            answers.append(asked.predict("serving_default", volume=volume))
            time.sleep(0.02)

    with ModelServer({"a2b": out / "a2b"}) as server, ThreadPoolExecutor(5) as pool:
        translator = RemoteTranslator(connect(server), out, "a2b")
        before = translate_file(translator, scan, tmp_path / "before.nii.gz")
        asking = [pool.submit(ask, transport) for transport in ("grpc", "grpc", "rest")]
        while len(answers) < 8:
            time.sleep(0.05)
        (newer / "a2b" / "2").rename(out / "a2b" / "2")  # what an export into the folder does last
        patience = time.monotonic() + 120
        while {version for _, version in answers[-8:]} != {2} and time.monotonic() < patience:
            time.sleep(0.05)
        after = translate_file(translator, scan, tmp_path / "after.nii.gz")
        stop.set()
        for future in asking:
            future.result()  # raises what a request raised
    assert {version for _, version in answers} == {1, 2}
    truth = {1: next(a for a, v in answers if v == 1), 2: next(a for a, v in answers if v == 2)}
    assert np.abs(truth[1] - truth[2]).max() > 50  # the versions differ, and no answer is a mixture
    assert all(np.abs(array - truth[version]).max() < TOLERANCE for array, version in answers)
    # the card followed the server
    facts = [read_json(path) for path in (before, after)]
    assert [(fact["version"], fact["step"]) for fact in facts] == [("1", 10), ("2", 5)]
    assert facts[1]["model_sha256"] == Translator.load(out / "a2b" / "2", "a2b").origin.sha256


def test_a_card_of_another_version_is_refused(exported, server, tmp_path):
    card = read_json(exported / "card.json")
    write_json(tmp_path / "card.json", {**card, "version": 4})
    translator = RemoteTranslator(connect(server), tmp_path / "card.json", "a2b")
    with pytest.raises(InputError, match=r"version 1 of a2b, and .*card.json is of version 4; .* ask for --version 4"):
        translator.translate_array(tiny.head((8, 16, 16)))


def test_a_result_of_another_shape_is_refused(exported, server, monkeypatch):
    asked = connect(server)
    monkeypatch.setattr(asked, "predict", lambda signature, volume, **windows: (volume[1:], 1))
    translator = RemoteTranslator(asked, exported, "a2b")
    with pytest.raises(
        InputError, match=r"made 7 x 16 x 16 voxels of 8 x 16 x 16 voxels; its model a2b is not that of"
    ):
        translator.translate_array(tiny.head((8, 16, 16)))


def test_an_altered_folder_is_refused(exported, server, scan, tmp_path, capsys):
    shutil.copytree(exported, tmp_path / "out")
    card = read_json(tmp_path / "out" / "card.json")
    card["data"]["spacing_mm"] = [1.0, 1.0, 1.0]
    write_json(tmp_path / "out" / "card.json", card)
    arguments = ["--model", "a2b", "--card", tmp_path / "out", scan, tmp_path / "result.nii.gz"]
    assert main(server, "grpc", *arguments) == 2
    assert "card.json is altered, or not of version 1: it differs from" in capsys.readouterr().err
    assert not (tmp_path / "result.nii.gz").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "knee", "--card", "CARD", "SCAN", "out.nii"], "The direction is 'knee'; allowed is a2b or b2a."),
        (["--model", "a2b", "SCAN", "out.nii"], "--card is missing"),
        (["--model", "a2b", "--card", "CARD"], "INPUT is missing"),
        (["--model", "a2b", "--card", "CARD", "--timeout", "0", "SCAN", "out.nii"], "--timeout is 0"),
        (["--model", "a2b", "--card", "FACTS", "SCAN", "out.nii"], "is not the card of an exported model: it has no"),
        (["--model", "a2b", "--card", "OTHER", "SCAN", "out.nii"], "is the card of b2a, not of a2b."),
        (["--model", "a2b", "--card", "EMPTY", "SCAN", "out.nii"], "is no exported model"),
        (["--model", "a2b", "--card", "CARD", "nowhere.nii", "out.nii"], "nowhere.nii does not exist"),
        (["--model", "a2b", "--card", "CARD", "--server", "localhost", "SCAN", "out.nii"], "it must be HOST:PORT"),
    ],
)
def test_what_the_command_refuses(exported, server, scan, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_json(tmp_path / "facts.json", {"version": 1})
    given = {
        "CARD": exported / "card.json",
        "OTHER": exported / "b2a" / "1" / exports.OWN_CARD,
        "EMPTY": tmp_path / "empty",
        "FACTS": tmp_path / "facts.json",
        "SCAN": scan,
    }
    assert main(server, "grpc", *(given.get(word, word) for word in arguments)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("error: ") == 1


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_status(server, transport, caplog, capsys):
    caplog.set_level("INFO")
    assert main(server, transport, "--model", "a2b", "--status") == 0
    assert "a2b: version 1 is AVAILABLE" in caplog.text
    assert main(server, transport, "--model", "c2d", "--status") == 2
    assert "has no model c2d" in capsys.readouterr().err


def test_ports_that_speak_another_protocol_are_told_apart_from_no_server(server, monkeypatch):
    """Easily exchanged: 8500 is gRPC and 8501 is REST. What the other side's bytes look like helps nobody."""
    monkeypatch.setattr(client, "RETRY_AFTER_S", (0.01,))
    with pytest.raises(InputError) as caught:
        RestClient(server.grpc, "a2b", timeout_s=20).status()
    assert str(caught.value) == (
        f"What answers at {server.grpc} does not speak HTTP; give the server's port of REST (8501 unless it was told "
        "another), or leave --rest away."
    )
    with pytest.raises(InputError) as caught:
        GrpcClient(server.rest, "a2b", timeout_s=20).status()
    assert str(caught.value) == (
        f"What answers at {server.rest} does not speak gRPC; give the server's port of gRPC (8500 unless it was told "
        "another), or add --rest."
    )
