"""What the planner recommends, and how it says so."""

import logging
import re

import pytest

from cyclescan import train
from cyclescan.common.errors import InputError
from cyclescan.config.presets import preset
from cyclescan.training import plan
from cyclescan.training.memory import Networks, estimate
from tests.conftest import SETTINGS

TINY = preset("demo").with_settings([*SETTINGS, "patch_shape=16,32,32", "batch_size=2"])


def command(capsys, *arguments):
    code = train.main(["--plan", *arguments])
    return code, *capsys.readouterr()


def test_a_t4_offers_less_than_it_is_sold_with():
    device = plan.gpu(16)
    assert device.memory == pytest.approx(16e9 - 1.3 * 2**30)
    assert "not measured" in device.explanation


@pytest.mark.parametrize("gigabytes", [0, -16, 1.3, float("nan"), float("inf")])
def test_a_gpu_without_memory_is_refused(gigabytes):
    with pytest.raises(InputError, match="--gpu-memory-gb is"):
        plan.gpu(gigabytes)


def test_alternatives_add_up_in_the_order_of_what_they_cost():
    choices = list(plan.alternatives(TINY, Networks()))
    assert [choice.added for choice in choices[:4]] == [
        "",
        "precision=mixed_float16",
        "accumulate=2",
        "rematerialize=true",
    ]
    added = [re.sub("=.*", "", choice.added) for choice in choices[4:]]
    assert added == sorted(added, reverse=True) and {"patch_shape", "generator_filters"} == set(added)
    needs = [choice.need.device for choice in choices]
    assert needs == sorted(needs, reverse=True)
    for choice in choices:
        assert TINY.with_settings(choice.words.split()) == choice.config


@pytest.mark.parametrize("share", [1.01, 0.7, 0.4, 0.1])
def test_the_recommendation_is_the_first_that_fits(share):
    memory = share * estimate(TINY).device
    device = plan.Device("a GPU for this test", memory, "made up")
    page = plan.page(TINY, device)
    words = re.search("Recommended: --set (.*)", page)
    choices = list(plan.alternatives(TINY, Networks()))
    fitting = next(choice for choice in choices if choice.need.device <= memory)
    assert (words.group(1) if words else "") == fitting.words
    assert estimate(TINY.with_settings(fitting.words.split())).device <= memory
    assert ("Recommended: the settings as asked." in page) == (share > 1)


def test_where_nothing_fits_the_page_says_so():
    page = plan.page(TINY, plan.Device("a GPU for this test", 1000, "made up"))
    assert "Recommended: a device with more memory." in page
    assert not re.search(r"\d  fits", page)


def test_the_command_needs_neither_data_nor_run(capsys):
    code, text, errors = command(capsys, "--gpu-memory-gb", "16", "--preset", "demo", "--set", *SETTINGS)
    assert code == 0 and not errors
    for part in ("weights", "optimizer", "gradients", "activations", "workspace", "batches", "total", "image pool"):
        assert re.search(rf"^{part} +\d+\.\d\d", text, re.MULTILINE), part
    assert "Recommended: the settings as asked." in text and "Why: " in text


def test_without_a_size_it_plans_for_this_machine(capsys, monkeypatch):
    device = plan.Device("this machine", 2**40, "made up", is_gpu=False)
    monkeypatch.setattr(plan, "present", lambda: device)
    code, text, _ = command(capsys, "--preset", "demo", "--set", *SETTINGS)
    assert code == 0 and text.startswith("One training step on this machine: 1024.00 GiB")
    assert "pool" in text.split("total")[0]  # it needs the same memory


def test_this_machine_has_memory():
    assert 0 < plan.present().memory < 2**50


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpu-memory-gb", "1"], "--gpu-memory-gb is 1; it must be a number above 1.4"),
        (["--preset", "bear"], "There is no preset 'bear'"),
        (["--set", "patch_shape=3,3,3"], "multiple of 16"),
        (["--set", *SETTINGS, "patch_shape=4,4,4", "discriminator_levels=3"], "too small for the discriminator"),
    ],
)
def test_wrong_input_is_one_sentence(capsys, arguments, sentence):
    code, text, errors = command(capsys, *arguments)
    assert code == 2 and not text
    assert sentence in errors and errors.count("\n") == 1


def test_training_itself_needs_data_and_a_run_and_no_size(capsys):
    assert train.main(["--run", "x"]) == 2
    assert "--data is missing" in capsys.readouterr().err
    assert train.main(["--data", "x"]) == 2
    assert "--run is missing" in capsys.readouterr().err
    assert train.main(["--data", "x", "--run", "x", "--gpu-memory-gb", "16"]) == 2
    assert "--gpu-memory-gb is for --plan alone" in capsys.readouterr().err


@pytest.mark.parametrize(("memory", "level"), [(2**40, logging.INFO), (1000, logging.WARNING)])
def test_the_log_says_what_a_step_needs_and_warns_where_that_is_too_much(monkeypatch, caplog, memory, level):
    monkeypatch.setattr(plan, "present", lambda: plan.Device("this machine", memory, "made up"))
    with caplog.at_level(logging.INFO):
        plan.warn(TINY)
    assert [record.levelno for record in caplog.records] == [level]
    assert f"a step needs an estimated {estimate(TINY).device / 2**30:.2f} GiB" in caplog.text


def test_a_container_has_less_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "CONTROL_GROUPS", tmp_path)
    whole = plan._available()  # there are no such files
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 600\ninactive_file 400\nactive_file 0\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert plan._available() == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text("5000000\n")
    assert plan._available() == 5000000 - 1000 + 400
