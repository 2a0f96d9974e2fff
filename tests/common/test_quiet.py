"""What TensorFlow says about itself while it is imported, and what must not be lost of it."""

import os
import subprocess
import sys

from cyclescan.common.quiet import without_notes


def test_a_command_begins_without_tensorflows_notes_and_says_what_it_waits_for():
    code = (
        "from cyclescan.common import command; "
        "command.run('', lambda parser: None, lambda parsed: __import__('tensorflow') and 0, 'x', [])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == "TensorFlow is loading, which takes some seconds.\n"


def test_notes_go_and_warnings_stay(capfd):
    with without_notes():
        os.write(2, b"I0000 port.cc:153] oneDNN custom operations are on. You may see\n")
        os.write(2, b"E0000 cuda_dnn.cc] no kernel image\n")
    assert capfd.readouterr().err == "E0000 cuda_dnn.cc] no kernel image\n"


def test_what_was_said_before_an_error_is_not_lost(capfd):
    try:
        with without_notes():
            os.write(2, b"libcudart.so is damaged\n")
            raise ImportError("no")
    except ImportError:
        pass
    assert capfd.readouterr().err == "libcudart.so is damaged\n"
