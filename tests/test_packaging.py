"""What is installed: the package's words about itself, its data, and (slow) a wheel and an sdist that work."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from setuptools import distutils  # of Python 3.12 and later, too

import cyclescan

ROOT = Path(__file__).parent.parent
PACKAGES = ("cyclescan", "data_prep")


@pytest.fixture(scope="module")
def distribution():
    """What setup.py says, with nothing built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        found = distutils.core.run_setup("setup.py", stop_after="init")
        build = found.get_command_obj("build_py")
        build.ensure_finalized()
        data = {
            os.path.join(package.replace(".", "/"), name) for package, _, _, names in build.data_files for name in names
        }
        yield found, data


def test_every_file_beside_the_code_is_in_the_wheel(distribution):
    """Templates, marks of types, shipped models: a wheel leaves out what no pattern of setup.py names."""
    _, data = distribution
    beside = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    models = ROOT / "saved_models"
    shipped = {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file() and path.parent != models}
    assert {"cyclescan/py.typed", "cyclescan/common/page.css.j2"} <= beside
    assert any(name.endswith(".npz") for name in shipped)
    assert beside | {f"cyclescan/pretrained_models/{name}" for name in shipped} == data


def test_every_package_is_in_the_wheel(distribution):
    found, _ = distribution
    folders = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert folders | {"cyclescan.pretrained_models"} == set(found.packages)


def test_what_the_package_says_of_itself(distribution):
    metadata = distribution[0].metadata
    assert metadata.version == cyclescan.__version__
    assert {"CycleGAN", "DICOM", "3D Slicer"} <= set(metadata.keywords)
    topics = set(metadata.classifiers)
    assert {"Operating System :: POSIX :: Linux", "Typing :: Typed", "Programming Language :: Python :: 3.13"} <= topics
    assert all(url.startswith("https://") for url in metadata.project_urls.values())
    assert "OSI Approved" not in str(topics)  # the licence is an expression, and package indexes refuse both
    words = metadata.long_description
    assert words.startswith("# cyclescan") and "| doing nothing |" in words
    assert "](docs/" not in words and "](saved_models/" not in words  # led nowhere, on a package index


def test_links_lead_to_the_repository_once_it_is_published():
    source = (ROOT / "setup.py").read_text()
    names = {}
    exec(source[source.index("def long_description") : source.index("REPOSITORY =")], {"re": __import__("re")}, names)
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](https://x.org/d) [e](#e)"
    assert names["long_description"](text, "https://x.org/r") == (
        "![a](https://x.org/r/raw/main/docs/a.png) [b](https://x.org/r/blob/main/docs/b.md#c) "
        "[d](https://x.org/d) [e](#e)"
    )
    assert names["long_description"](text, None) == " b [d](https://x.org/d) [e](#e)"


@pytest.mark.slow
def test_wheel_and_sdist_are_sound_and_what_is_installed_translates(tmp_path):
    """The wheel is built from the sdist, so that this is complete, and called from a folder without the repository."""
    checkout, built, installed = (tmp_path / name for name in ("checkout", "built", "installed"))
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)

    def run(*words, **options):
        done = subprocess.run([*map(str, words)], cwd=tmp_path, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python = (sys.executable, "-m")
    run(*python, "build", "--no-isolation", "--outdir", built, checkout)
    wheel, sdist = sorted(built.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert (wheel.suffix, sdist.suffix) == (".whl", ".gz")
    run(*python, "twine", "check", "--strict", wheel, sdist)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(("tests/", "docs/"))]

    run(*python, "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", installed, wheel)
    environment = {"env": os.environ | {"PYTHONPATH": str(installed)}}
    program = (sys.executable, installed / "bin" / "cyclescan")
    assert str(installed) in run(sys.executable, "-c", "import cyclescan; print(cyclescan.__file__)", **environment)
    assert "next: cyclescan doctor" in run(*program, **environment)
    small = ("--subjects", "1", "--shape", "8", "32", "32", "--workers", "1")
    run(*program, "data-prep", "phantom", "--out", "scans", *small, **environment)
    scan = "scans/ciss/sub-0001.nii.gz"
    run(*program, "translate", "--model", "digital-knee", "--direction", "a2b", scan, "dess.nii.gz", **environment)
    assert json.loads((tmp_path / "dess.json").read_text())["direction"] == "a2b"
