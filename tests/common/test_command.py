"""What all command lines share: empty arguments, and what is said of one item that failed."""

import logging

import pytest

from cyclescan.common import command
from cyclescan.common.errors import InputError, of_item


def arguments(parser):
    parser.add_argument("path")
    parser.add_argument("--out-dir", default="results")
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--note", default="")


@pytest.mark.parametrize(
    ("given", "name"),
    [(["", "--out-dir", "x"], "path"), (["a", "--out-dir", ""], "out_dir"), (["a", "--keys", "k", ""], "keys")],
)
def test_an_empty_argument_is_refused_before_anything_is_done(capsys, given, name):
    """Else "" would be the working folder."""
    assert command.run("", arguments, lambda parsed: pytest.fail("done"), "x", given) == command.WRONG_INPUT
    assert capsys.readouterr().err == f"error: The argument {name} is empty; give it a value or leave it away.\n"


def test_what_may_be_empty_may_stay_so():
    assert command.run("", arguments, lambda parsed: parsed.note != "", "x", ["a"]) == command.DONE


def test_an_item_that_fails_is_named_with_the_class_and_place_and_not_with_the_words(caplog):
    caplog.set_level(logging.DEBUG, "cyclescan")
    try:
        raise KeyError("Doe^Jane")
    except KeyError as error:
        said = of_item(error, "scans/7.nii")
    assert isinstance(said, InputError)
    assert str(said).startswith("scans/7.nii failed in a way that was not foreseen (KeyError, test_command.py line ")
    assert "Doe" not in str(said)
    assert "Traceback" in caplog.text  # for who asks for it


def test_what_was_foreseen_stays_as_it_is():
    error = InputError("x.nii is constant.")
    assert of_item(error, "x.nii") is error
    assert str(of_item(MemoryError(), "x.nii")) == "x.nii needs more memory than there is."


@pytest.mark.parametrize(("value", "level"), [("debug", logging.DEBUG), ("", logging.INFO)])
def test_the_environment_asks_for_tracebacks(monkeypatch, value, level):
    monkeypatch.setenv("CYCLESCAN_LOG", value)
    logger = logging.getLogger("cyclescan")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()
    assert command.run("", arguments, lambda parsed: None, "x", ["a"]) == command.DONE
    assert logger.level == (level if value else logging.NOTSET)
