"""What is read from disk runs nothing: no pickle, no Keras archive, checkpoints of plain tensors."""

import ast
from pathlib import Path

import pytest
import tensorflow as tf

from cyclescan.artifacts import runs
from tests.inference import tiny

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "cyclescan").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")])

# these rebuild arbitrary Python objects, or code, from a file
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"eval", "exec", "enable_unsafe_deserialization", "unsafe_load"}


def unsafe(source: str) -> list[str]:
    """What in a module could run code that came with a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom):
            names = {node.module or ""}
        found += sorted({name.split(".")[0] for name in names} & UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        options = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        # Keras' default is safe as well, but it can be switched off for the whole process
        if name in ("load_model", "model_from_json", "deserialize_keras_object"):
            if options.get("safe_mode") is not True:
                found.append(name)
        if name in UNSAFE_CALLS or options.get("allow_pickle") or options.get("safe_mode") is False:
            found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unsafe_is_called(path):
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "keras.saving.load_model(path)",
        "keras.saving.load_model(path, safe_mode=False)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert unsafe(source)
    assert not unsafe("keras.saving.load_model(path, safe_mode=True)\nnp.load(path)")


def test_a_checkpoint_holds_plain_tensors(tmp_path):
    run = tiny.write_run(tmp_path / "run")
    folder = runs.find(run)
    files = {path.name for path in folder.iterdir()}
    assert files == {"checkpoint.json", "state.index", "state.data-00000-of-00001"}
    kinds = tf.train.load_checkpoint(str(folder / "state")).get_variable_to_dtype_map()
    # the one text is TensorFlow's list of which variable belongs where, a protocol buffer
    assert kinds.pop("_CHECKPOINTABLE_OBJECT_GRAPH") == tf.string
    assert kinds
    assert all(kind.is_floating or kind.is_integer for kind in kinds.values())
