"""Names that scripts and notebooks rely on."""

import subprocess
import sys

import pytest

import cyclescan
from cyclescan.config import settings
from cyclescan.scans import volume


def test_public_names_are_where_they_live():
    assert cyclescan.Volume is volume.Volume
    assert cyclescan.read is volume.read
    assert cyclescan.write is volume.write
    assert cyclescan.Config is settings.Config
    assert cyclescan.preset("knee").lambda_pair == 10.0
    assert cyclescan.fit.__module__ == "cyclescan.training.trainer"
    assert cyclescan.show.__module__ == "cyclescan.reporting.notebook"
    assert {"Translator", "fit", "read"} <= set(dir(cyclescan))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = cyclescan.nothing


def test_asking_for_light_names_imports_no_tensorflow():
    names = "cyclescan.read, cyclescan.Config, cyclescan.preset, cyclescan.show"
    code = f"import sys, cyclescan; {names}; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_modules_of_earlier_versions_are_still_found():
    from cyclescan import presets as old_presets
    from cyclescan import volume as old_volume
    from cyclescan.config import presets

    assert old_presets.preset is presets.preset and old_presets.PRESETS is presets.PRESETS
    assert old_volume.Volume is volume.Volume and old_volume.read_header is volume.read_header
