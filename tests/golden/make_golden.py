"""Make golden.json anew: `python -m tests.golden.make_golden [SECTION ...]`, from the root of the repository.

golden.json pins what the product computes, so that a change that should change nothing is seen to change nothing.
A section is made anew only where what it pins is MEANT to be other from now on, and the commit says why.

The digests were made from commit 748766e on a virtual machine with two cores of an AMD EPYC (Zen 4, AVX-512), with
Python 3.11, tensorflow 2.21.0, keras 3.15.1, numpy 2.4.6; "made_on" in golden.json has it word for word.

Settings, identities, names and splits hold on every machine. What is computed in floating point is bit-equal on one
kind of processor with one set of packages only, so beside each digest of such values stand a few numbers of them: mean,
SD and some values. Where "made_on" is the present machine the digests must be equal; elsewhere those numbers must be,
within the tolerances below.

`old/` holds what the code of that commit wrote: scans, a data set with pairs, a run with one checkpoint and its export.
It stands for what users have on their disks and is not made anew with golden.json; `--old` makes it from nothing.
"""

from __future__ import annotations

import argparse
import csv
import hmac
import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from tests.golden import doors

HERE = Path(__file__).parent
GOLDEN, OLD = HERE / "golden.json", HERE / "old"
MODELS = HERE.parents[1] / "saved_models"
KEY = bytes(range(32))  # of the pseudonyms, in place of a secret
CHANGED_NS = 1_700_000_000 * 10**9  # when the scans of `old/` were last changed, which a copy of them does not keep
PACKAGES = ("tensorflow-cpu", "tensorflow", "keras", "numpy", "scipy", "simpleitk", "nibabel", "scikit-image")
DIGITS = 7  # of the numbers beside a digest

PHANTOM = ("--subjects", "6", "--shape", "10", "24", "24", "--seed", "1", "--workers", "1")
BUILD = ("--split", "4", "1", "1", "--disjoint", "--seed", "1", "--workers", "1")
TINY = (
    "patch_shape=8,16,16",
    "generator_levels=2",
    "generator_filters=4",
    "discriminator_levels=1",
    "discriminator_filters=4",
)
FULL = ("generator_full_resolution_filters=4", "pool_size=3")  # `cyclescan` has neither
STEPS = 20
# Every term of a preset counts within the steps: back-translation, detail, texture from step 8 on, the discriminators
# from step 17 on, the adversarial phase in the last two. `demo` is `knee` but for its patch, so it has another seed.
RUNS = {
    "knee": ("--preset", "knee", "--set", *TINY, *FULL),
    "demo": ("--preset", "demo", "--seed", "1", "--set", *TINY, *FULL, "patch_shape=8,16,8"),
    "cyclescan": ("--preset", "cyclescan", "--set", *TINY),
    "gradient_consistency": ("--preset", "gradient_consistency", "--set", *TINY, *FULL),
    # with two phases instead of four, since each is traced anew, which takes the time of this run
    "accumulated_float16": (
        *("--preset", "knee", "--set", *TINY, *FULL, "back_from=0", "discriminator_warmup=0"),
        *("batch_size=2", "accumulate=2", "precision=mixed_float16"),
    ),
}
# a step of each phase; old/run keeps the checkpoint of the third, and the fourth is taken when it is resumed
OLD_RUN = ("--preset", "knee", "--set", *TINY, *FULL, "warmup=0.5", "back_from=0.25", "discriminator_warmup=0.25")
OLD_STEP, OLD_STEPS = 3, 4
SCAN = "sub-0001.nii.gz"
TRANSLATIONS = {
    "digital-knee a2b": ("digital-knee", "a2b", "ciss"),
    "digital-knee b2a": ("digital-knee", "b2a", "dess"),
    "digital-knee-ct a2b": ("digital-knee-ct", "a2b", "ciss"),
}


def machine() -> dict:
    """What decides over the last bits of what is computed."""
    info = Path("/proc/cpuinfo")
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", info.read_text(), re.MULTILINE)) if info.exists() else {}
    vector = [flag for flag in facts.get("flags", "").split() if re.match(r"sse|avx|fma|f16c|amx", flag)]
    return {
        "processor": [platform.machine(), *(facts.get(key, "") for key in ("model name", "cpu family", "model"))],
        "vector": " ".join(sorted(vector)),
        "cores": os.cpu_count(),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def summary(*arrays: np.ndarray) -> dict:
    """A digest of arrays, and a few of their numbers, which hold on other machines as well."""
    values = np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays])
    some = values[np.linspace(0, len(values) - 1, 8).astype(int)]
    return {
        "sha256": doors.digest(*arrays),
        "mean": _short(values.mean()),
        "sd": _short(values.std()),
        "some": [_short(value) for value in some],
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def copy_of_scans(folder: Path) -> Path:
    """The scans of `old/` in a folder, last changed when they always were: a build looks at that."""
    scans = Path(shutil.copytree(OLD / "scans", folder / "scans"))
    for path in scans.rglob("*.nii.gz"):
        os.utime(path, ns=(CHANGED_NS, CHANGED_NS))
    return scans


def build(scans: Path, out: Path) -> None:
    """The data set of the golden fixtures, without pairs."""
    key = out.with_name("key")
    key.write_bytes(KEY)
    domains = ("--a", f"ciss={scans / 'ciss'}", "--b", f"dess={scans / 'dess'}")
    doors.data_prep("build", *domains, "--out", out, *BUILD, "--key-file", key)


def phantom(folder: Path) -> dict:
    """What `data_prep phantom` writes: the bytes of each file and its voxels, and the table of participants."""
    scans = folder / "phantom"
    doors.data_prep("phantom", "--out", scans, *PHANTOM)
    files = {path.relative_to(scans).as_posix(): path for path in sorted(scans.rglob("*.nii.gz"))}
    return {
        "participants": [line.split("\t") for line in (scans / "participants.tsv").read_text().splitlines()],
        "files": {
            n: {"file_sha256": doors.digest(p.read_bytes())} | summary(doors.voxels(p)) for n, p in files.items()
        },
    }


def data_set(folder: Path) -> dict:
    """What `data_prep build` and `pair` make of the scans of `old/`; its identities are a section of their own."""
    out = folder / "records"
    build(copy_of_scans(folder), out)
    doors.data_prep("pair", out, "--workers", "1")
    info = json.loads((out / "dataset.json").read_text())
    for name in ("request", "cyclescan_version", "notice"):
        del info[name]
    for shard in info["shards"].values():
        del shard["fingerprint"]
    shards = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*.tfrecord"))}
    pairs = json.loads((out / "pairs" / "pairs.json").read_text())
    return {
        "dataset": info,
        "pairs": pairs,
        "records": {name: [_record(r) for r in doors.records_of(path)] for name, path in shards.items()},
    }


def _record(record) -> dict:
    """All that a decoded record holds."""
    arrays = {name: getattr(record, name) for name in ("voxels", "affine", "partner", "partner_detail", "mask")}
    texts = ("domain", "domain_name", "subject", "preprocessing", "weight")
    return {
        **{name: getattr(record, name) for name in texts},
        "partner_subjects": list(record.partner_subjects),
        **{name: None if array is None else summary(np.nan_to_num(array, nan=-9)) for name, array in arrays.items()},
    }


def identity(folder: Path) -> dict:
    """The texts of which a data set's request and its shards' fingerprints are keyed hashes.

    They hold the place of the scans and the version of the program, for which `fill` has the present ones.
    """
    texts = {}
    keyed_hash = hmac.digest

    def noted(key, message, kind):
        texts[keyed_hash(key, message, kind).hex()[:32]] = message.decode()
        return keyed_hash(key, message, kind)

    scans = copy_of_scans(folder)
    with mock.patch.object(hmac, "digest", noted):
        build(scans, folder / "records")
    info = json.loads((folder / "records" / "dataset.json").read_text())

    def template(hashed: str) -> str:
        return texts[hashed].replace(str(scans), "@SCANS@").replace(f'"version": "{doors.version()}"', "@VERSION@")

    return {
        "request": template(info["request"]),
        "fingerprints": {name: template(shard["fingerprint"]) for name, shard in info["shards"].items()},
    }


def fill(template: str, scans: Path) -> str:
    """The keyed hash of a text of `identity` for scans that lie at this place."""
    text = template.replace("@SCANS@", str(scans)).replace("@VERSION@", f'"version": "{doors.version()}"')
    return hmac.digest(KEY, text.encode(), "sha256").hex()[:32]


def presets(_: Path) -> dict:
    """The settings of every preset as it is, not shrunk."""
    return doors.presets()


def run(folder: Path, name: str) -> dict:
    """20 steps of a preset, on the data set of `old/`, with tiny networks and patches."""
    out = folder / name
    once = ("--steps", STEPS, "--checkpoint-every", STEPS)
    doors.train("--data", OLD / "records", "--run", out, *once, *RUNS[name])
    about = json.loads((out / "config.json").read_text())
    return {
        "config": about["config"],
        "preset": about["preset"],
        "fingerprint": about["fingerprint"],
        **trained(out, STEPS),
    }


def trained(run: Path, step: int) -> dict:
    """What a run has learned: the groups of its state, the networks that translate, and the losses on the way."""
    groups: dict[str, list[np.ndarray]] = {}
    for name, value in doors.state(run, step).items():
        groups.setdefault(name.split("/")[0], []).append(value)
    with open(run / "history.csv", encoding="utf-8", newline="") as stream:
        rows = [{key: _short(float(text)) for key, text in row.items() if text} for row in csv.DictReader(stream)]
    clocks = ("seconds", "seconds_per_step", "steps_per_second")
    return {
        "translators": {way: summary(*doors.generator(run, way).get_weights()) for way in ("a2b", "b2a")},
        "state": {name: summary(*values) for name, values in groups.items() if not name.startswith("save_counter")},
        "history": [{key: value for key, value in row.items() if key not in clocks} for row in rows],
    }


def old_run(folder: Path) -> dict:
    """The run of `old/` after its last step, which it is resumed to take."""
    copy = Path(shutil.copytree(OLD / "run", folder / "run"))
    doors.train("--data", OLD / "records", "--run", copy, "--resume")
    return trained(copy, OLD_STEPS)


def old_models(folder: Path) -> dict:
    """A scan as the exported model of `old/` translates it."""
    found = {}
    for way, source in (("a2b", "ciss"), ("b2a", "dess")):
        out = folder / f"{way}.nii.gz"
        doors.translate("--model", OLD / "models", "--direction", way, OLD / "scans" / source / SCAN, out)
        found[way] = summary(doors.voxels(out))
    return found


def translations(folder: Path, name: str) -> dict:
    """A scan as a model that comes with cyclescan translates it."""
    model, way, source = TRANSLATIONS[name]
    out = folder / "translated.nii.gz"
    doors.translate("--model", MODELS / model, "--direction", way, OLD / "scans" / source / SCAN, out)
    return summary(doors.voxels(out))


def essence(card: Path) -> dict:
    """A model card without versions, times, prose and what depends on the way TensorFlow writes its files."""
    left_out = ("cyclescan_version", "created", "checksums", "licence", "limits", "notice")
    return {key: value for key, value in json.loads(card.read_text()).items() if key not in left_out}


def make_old() -> None:
    """Write `old/`: with the code that is there, as users have it on their disks."""
    shutil.rmtree(OLD, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        doors.data_prep("phantom", "--out", folder / "scans", *PHANTOM)
        for domain in ("ciss", "dess"):
            shutil.copytree(folder / "scans" / domain, OLD / "scans" / domain)
        shutil.rmtree(folder / "scans")
        build(copy_of_scans(folder), folder / "records")
        doors.data_prep("pair", folder / "records", "--workers", "1")
        shutil.copytree(folder / "records", OLD / "records")
        often = ("--steps", OLD_STEPS, "--checkpoint-every", OLD_STEP)
        run = folder / "run"
        doors.train("--data", folder / "records", "--run", run, *often, *OLD_RUN)
        shutil.rmtree(run / "checkpoints" / f"step-{OLD_STEPS:08d}")
        shutil.rmtree(run / "tensorboard")
        about = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(about | {"records": "records"}, indent=2) + "\n")
        shutil.copytree(run, OLD / "run")
        doors.export("--run", run, "--out", OLD / "models", "--window", "8", "16", "16")


# by name; those that are made of several parts are run for one part at a time
SECTIONS: dict[str, Callable] = {
    "phantom": phantom,
    "data_set": data_set,
    "identity": identity,
    "presets": presets,
    **{f"run {name}": lambda folder, name=name: run(folder, name) for name in RUNS},
    "old_run": old_run,
    "old_models": old_models,
    **{f"translation {name}": lambda folder, name=name: translations(folder, name) for name in TRANSLATIONS},
}


def make(section: str) -> dict:
    """What the present code computes for a section."""
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(json.dumps(SECTIONS[section](Path(folder))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"by default all: {', '.join(SECTIONS)}")
    parser.add_argument("--old", action="store_true", help="first make the folder old/ from nothing")
    arguments = parser.parse_args()
    if arguments.old:
        make_old()
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"made_on": {}, "sections": {}}
    # digests of several machines in one file would be compared with the wrong one
    if arguments.sections and golden["made_on"] not in ({}, machine()):
        sys.exit("The other sections were made on another machine; make all of them, or go back to that one.")
    for section in arguments.sections or SECTIONS:
        sys.stderr.write(f"-- {section}\n")
        golden["sections"][section] = make(section)
    golden["made_on"] = machine()
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
