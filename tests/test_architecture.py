"""Doors open downwards only, and light modules stay light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# packages and single modules from the ground up; a door opens from a floor onto lower ones alone
FLOORS = [
    {"common", "__init__"},
    {"scans", "config"},
    {"preprocessing"},
    {"models", "losses", "dataset", "planting", "records"},
    {"artifacts"},
    {"training", "diffusion"},
    {"inference"},
    {"evaluation"},
    {"reporting", "serving", "planning"},
    {"train", "translate", "evaluate", "report", "export", "demo", "plan", "endpoints", "doctor", "__main__"},
    {"completion"},  # knows the command lines of all
    {"volume", "presets"},  # names of earlier versions, one line each
]
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}
# a command that is called by the name of its room stands on the floor of the commands
COMMANDS_IN_ROOMS = {"serving/client.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """The package or the single module below cyclescan that a dotted name lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR else "__init__"


MODULES = sorted((ROOT / "cyclescan").rglob("*.py"))


def doors() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    found = set()
    for path in MODULES:
        own = path.relative_to(ROOT / "cyclescan").parts[0].removesuffix(".py")
        found |= {(own, room(name)) for name in imports(path) if name.split(".")[0] == "cyclescan"}
    return {(own, other) for own, other in found if own != other}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_doors_open_downwards(path):
    relative = path.relative_to(ROOT / "cyclescan")
    own = relative.parts[0].removesuffix(".py")
    assert own in FLOOR, f"{own} has no floor: add it to this test"
    floor = len(FLOORS) - 1 if relative.as_posix() in COMMANDS_IN_ROOMS else FLOOR[own]
    for name in imports(path):
        if name.split(".")[0] == "cyclescan":
            assert FLOOR[room(name)] <= floor, f"{path} imports {name} from a higher floor"
        if own not in ("demo", "doctor"):  # the tour of the whole house, and who looks after all of it
            assert name.split(".")[0] != "data_prep", f"{path} imports {name}"


def test_no_two_rooms_open_onto_each_other():
    """Not even by way of others: the rooms can be sorted so that every door leads to an earlier one."""
    open_doors = {pair for pair in doors() if "__init__" not in pair}
    rooms = {name for pair in open_doors for name in pair}
    while rooms:
        free = {name for name in rooms if not any(own == name and other in rooms for own, other in open_doors)}
        assert free, f"a circle among {sorted(rooms)}"
        rooms -= free


@pytest.mark.parametrize("path", sorted((ROOT / "data_prep").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_data_prep_uses_the_ground_floors_only(path):
    allowed = {"common", "__init__", "scans", "config", "preprocessing", "records"}
    for name in imports(path):
        if name.split(".")[0] == "cyclescan":
            assert room(name) in allowed, f"{path} imports {name}"


def test_beam_and_simpleitk_live_in_data_prep():
    """But for N4, applied to a new scan as it was to those of the training, and for reading MetaImages."""
    for path in MODULES:
        allowed = {"SimpleITK"} if path.name in ("bias_field.py", "metaimage.py") else set()
        assert not ({n.split(".")[0] for n in imports(path)} & {"apache_beam", "SimpleITK"}) - allowed, path


@pytest.mark.parametrize("name", ["models", "losses"])
def test_networks_and_losses_do_not_name_tensorflow(name):
    for path in (ROOT / "cyclescan" / name).rglob("*.py"):
        assert not any(n.split(".")[0] == "tensorflow" for n in imports(path)), path


@pytest.mark.parametrize(
    "module",
    [
        "cyclescan.scans.volume",
        "cyclescan.preprocessing",
        "cyclescan.config",
        "cyclescan.scans.dicom.derived",
        "cyclescan",
    ],
)
def test_light_modules_do_not_import_tensorflow(module):
    code = f"import {module}, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_onednn_is_on_before_tensorflow_is_imported():
    name = "'TF_ENABLE_ONEDNN_OPTS'"
    code = f"import os; os.environ.pop({name}, 0); import cyclescan; print(os.environ[{name}])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "1"


def test_library_code_neither_prints_nor_asserts():
    for path in [*MODULES, *(ROOT / "data_prep").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path} has an assert"
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path} has a bare except"
            assert not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"), f"{path} prints"


def test_graphs_are_made_without_autograph():
    """It would rewrite Keras's sources and ours for seconds, and none of them is Python control flow on tensors."""
    for path in MODULES:
        nodes = list(ast.walk(ast.parse(path.read_text())))
        without = [n.func for n in nodes if isinstance(n, ast.Call) and any(k.arg == "autograph" for k in n.keywords)]
        for node in nodes:
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "tf.function":
                assert node in without, f"{path}:{node.lineno}"


def functions(path: Path) -> list[tuple[ast.FunctionDef, list[str], int, bool]]:
    """Each function of a file: its parameters but for self, the lines of its body, whether a comment stands above."""
    text = path.read_text()
    lines = text.splitlines()
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            given = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            reason = lines[first - 2].lstrip().startswith("# ")
            found.append((node, [name for name in given if name not in ("self", "cls")], length, reason))
    return found


def test_long_functions_and_many_parameters_say_why():
    """In a comment above them: at most 8 parameters and 60 lines else."""
    everything = [*MODULES, *(ROOT / "data_prep").rglob("*.py")]
    for path in everything:
        for node, parameters, length, reason in functions(path):
            assert len(parameters) <= 8 or reason, f"{path}: {node.name} has {len(parameters)} parameters"
            assert length <= 60 or reason, f"{path}: {node.name} has {length} lines"


def test_files_that_texts_name_are_in_the_repository():
    """In code, its comments and docstrings, and in the papers but for those that are of their dates.

    Our names are in lower case; a capital is in those of others.
    """
    places = ("cyclescan", "data_prep", "benchmarks", "docs", "notebooks", "saved_models")
    texts = [p for place in places for kind in ("py", "md") for p in (ROOT / place).rglob(f"*.{kind}")]
    names = {path.name for place in (*places, "tests") for path in (ROOT / place).rglob("*.*")}
    names |= {path.name for path in ROOT.iterdir()}
    for path in [*texts, *ROOT.glob("*.md")]:
        if (ROOT / "docs" / "lab") in path.parents or path.name == "CHANGELOG.md":
            continue
        for word in re.findall(
            r"(?<![\w/.<{$~*-])[a-z0-9_/-]+\.(?:py|md|ipynb|j2)(?![\w{*<])", path.read_text("utf-8")
        ):
            assert Path(word).name in names, f"{path} names {word}"
            # a longer path is one from the root, from a package, or from where it is named
            if "/" in word and not word.startswith("/"):
                roots = (ROOT, ROOT / "cyclescan", ROOT / "data_prep", ROOT / "docs", path.parent)
                assert any((root / word).exists() for root in roots), f"{path} names {word}"
