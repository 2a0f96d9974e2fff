"""What somebody meets who has just installed cyclescan: the map, completion, the doctor, bars, and nothing slow."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cyclescan import __main__ as program
from cyclescan import completion, doctor
from cyclescan.common import command, machine
from cyclescan.completion import SHELLS

ROOT = Path(__file__).parent.parent
# each takes a second or more to import, and no command needs one before it has read its arguments
SLOW = ("tensorflow", "keras", "matplotlib", "scipy.stats", "apache_beam", "SimpleITK", "pandas", "torch")


def test_without_arguments_there_is_a_map(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cyclescan"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, text in program.COMMANDS.items():
        assert any(line.split(maxsplit=1) == [name, text] for line in lines)
    assert lines[-1].startswith("next: cyclescan doctor")
    assert max(map(len, lines)) <= 110


def test_an_unknown_command_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cyclescan", "trane"])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: There is no command 'trane'; allowed are demo, train, ")


def test_all_command_lines_are_known_before_anything_slow_is_imported():
    """So that help, a wrong option and completion come at once."""
    code = (
        "import sys; from cyclescan import completion; completion.parsers(); "
        f"print([module for module in {SLOW} if module in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def scripts():
    import shtab

    root = completion.parsers()
    return {shell: shtab.complete(root, shell) for shell in SHELLS}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(scripts, shell):
    for word in (*program.COMMANDS, "keep-identity", "per-volume", "a2b"):
        assert word in scripts[shell]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("cyclescan e", {"evaluate", "endpoints", "export"}),
        ("cyclescan data-prep p", {"phantom", "pair"}),
        ("cyclescan translate --mo", {"--model"}),
        ("cyclescan plan --direction ", {"a2b", "b2a"}),
        ("cyclescan train --data rec", {"records"}),
        ("cyclescan train --preset knee", {"knee"}),
    ],
)
def test_bash_completes(scripts, tmp_path, typed, offered):
    (tmp_path / "completion").write_text(scripts["bash"])
    (tmp_path / "records").mkdir()
    words = typed.split(" ")
    script = (
        "source ./completion; "
        f"COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); COMP_CWORD={len(words) - 1}; "
        '$(complete -p cyclescan | sed "s/.*-F \\([^ ]*\\).*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found = {line.strip() for line in done.stdout.splitlines()}
    assert offered <= found
    assert all(line.startswith(words[-1]) for line in found)


@pytest.fixture
def known_machine(monkeypatch, tmp_path):
    """A doctor without TensorFlow, whose import is not what is tested, and with a key of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYCLESCAN_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setattr(doctor, "CHECKS", doctor.CHECKS[:-1])
    return tmp_path / "key"


def test_the_doctor_of_a_sound_machine(known_machine, capsys):
    assert doctor.main([]) == command.DONE
    said = capsys.readouterr().out
    assert f"{sys.version_info.major}.{sys.version_info.minor}." in said
    assert "MEND" not in said and f"{known_machine} is not there yet" in said


@pytest.mark.parametrize(
    ("size", "mode", "said"), [(32, 0o644, "chmod 600"), (31, 0o600, "it has 32 bytes that you can read, this file 31")]
)
def test_the_doctor_finds_a_key_that_is_damaged_or_open(known_machine, capsys, size, mode, said):
    known_machine.write_bytes(bytes(size))
    known_machine.chmod(mode)
    assert doctor.main([]) == command.SOME_FAILED
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " -> " in line and "pip" not in line)
    assert said in line


def test_the_doctor_finds_other_pythons_and_full_disks(known_machine, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    assert [f.mend.split(";")[0] for check in (machine.python, machine.disk) for f in check()] == [
        "use Python 3.10 to 3.13", "make room for 2 GiB, or work on another disk",
    ]  # fmt: skip


def test_the_doctor_and_the_packaging_name_the_same_pythons_and_extras():
    setup = (ROOT / "setup.py").read_text()
    (oldest, newest) = machine.PYTHONS
    assert f'python_requires=">={oldest[0]}.{oldest[1]},<{newest[0]}.{newest[1] + 1}"' in setup
    assert all(f'"{extra}": [' in setup for extra in machine.EXTRAS)


def test_a_suggested_call_is_the_way_that_the_program_was_called(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/train.py"])
    assert command.call("translate", "--model", "my run") == "python -m cyclescan.translate --model 'my run'"
    assert command.call("data-prep pair", "r") == "python -m data_prep pair r"
    monkeypatch.setattr(sys, "argv", ["cyclescan train", "--help"])
    assert command.call("data-prep pair", "r") == "cyclescan data-prep pair r"


def test_bars_are_silent_where_nobody_looks_and_have_the_time_left_where_somebody_does(capfd, monkeypatch):
    assert list(command.progress([1, 2])) == [1, 2]
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(command, "_in_notebook", lambda: True)
    monkeypatch.setattr("tqdm.auto.tqdm", __import__("tqdm").tqdm)  # the widget needs a kernel
    assert list(command.progress([1, 2], mininterval=0)) == [1, 2]
    assert "1/2 [" in capfd.readouterr().err
