"""docs/how-to/change-the-loss.md does what it says, in a copy of the package."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "change-the-loss.md"
LOOK = """
import json, sys
import numpy as np
import tensorflow as tf
from cyclescan.config import Config, reference
from cyclescan.reporting import figures
from cyclescan.training import memory, terms
from cyclescan.training.cyclegan import CycleGAN

tf.config.run_functions_eagerly(True)
settings = Config(lambda_adversarial=0.0).with_settings(sys.argv[1:])
without = settings.with_settings(["lambda_smooth=0"])
rng = np.random.default_rng(0)
batch = {key: tf.constant(rng.uniform(-1, 1, (1, 8, 16, 16, 1)), tf.float32) for key in ("real_a", "real_b")}
model = CycleGAN(settings, 0)
fake = model.generators["a2b"](batch["real_a"]).numpy()
losses, _ = model.train_step(batch)
phase = terms.Phase.whole(settings)
json.dump({
    "losses": {name: float(value) for name, value in losses.items()},
    "expected": sum(float(np.abs(np.diff(fake, axis=axis)).mean()) for axis in (1, 2, 3)),
    "weights": terms.weights(terms.of_generators(settings, phase), settings, phase),
    "without": [part.name for part in terms.of_generators(without, phase)],
    "help": reference.command_line_help(),
    "memory": memory.estimate(settings).device == memory.estimate(without).device,
    "report": figures.loss_curves({"step": np.arange(2.0), "smooth_a2b": np.ones(2)}, {}, {"a": "A", "b": "B"})[:20],
}, sys.stdout)
"""


def insert(path: Path, before: str, text: str) -> None:
    """Put text before the first line that begins so."""
    whole = path.read_text(encoding="utf-8")
    place = whole.index(f"\n{before}") + 1
    path.write_text(whole[:place] + text + whole[place:], encoding="utf-8")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a copy of the package tells, in which the three steps of the page were done."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(ROOT / "cyclescan", folder / "cyclescan", ignore=shutil.ignore_patterns("__pycache__"))
    function, setting, term = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    package = folder / "cyclescan"
    insert(package / "losses" / "__init__.py", "def _float32", f"{function}\n\n")
    insert(package / "config" / "settings.py", "    lambda_back", setting)
    insert(package / "training" / "terms.py", "# Terms of one row", f"{term}\n")
    insert(package / "training" / "terms.py", "]\nDISCRIMINATORS", "    (SMOOTH,),\n")
    settings = ["patch_shape=8,16,16", "generator_levels=1", "generator_filters=2", "lambda_smooth=0.25"]
    settings += ["generator_full_resolution_filters=2", "discriminator_levels=1", "discriminator_filters=2"]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *settings], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_step_learns_from_it(told):
    assert list(told["losses"]) == ["cycle_aba", "cycle_bab", "smooth_a2b", "smooth_b2a"]
    assert told["losses"]["smooth_a2b"] == pytest.approx(told["expected"], rel=1e-3)
    assert told["weights"]["smooth_a2b"] == told["weights"]["smooth_b2a"] == 0.25
    assert told["without"] == ["cycle_aba", "cycle_bab"]


def test_everything_else_knows_of_it(told):
    assert "    lambda_smooth=0\n        weight of the variation of translations" in told["help"]
    assert told["memory"]
    assert told["report"].startswith("data:image/svg")


def test_the_page_is_short():
    assert len(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)) == 3
    blocks = "".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    assert len(blocks.splitlines()) <= 30
