"""The folder in which a data set grows, so that a run that was killed goes on where it was.

Beside RECORDS stands RECORDS.partial while a build runs. A shard there is named by its fingerprint, a keyed hash of
everything that decides its bytes: the settings, and for each scan its file, that file's size and time of change, and
the subject. It is written under a temporary name and renamed, and its facts (.json) are written last; a shard without
facts does not count. When every shard is there, the data set is put together from links under a temporary name and
takes the place of RECORDS in one step. So readers see the old data set or the new one, nothing between, and a shard
whose fingerprint is known, from RECORDS.partial or from RECORDS itself, is never made twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import cyclescan
from cyclescan import records
from cyclescan.common.errors import InputError
from cyclescan.common.files import alone_in, make_folder, read_json, recover, replacing, write_json
from data_prep import pseudonyms
from data_prep.splits import DOMAINS, SPLITS

log = logging.getLogger(__name__)

DATASET = "dataset.json"
SPLIT_FILE = "splits.tsv"
PAIRS = "pairs"
FOLDERS = (*SPLITS, PAIRS)
PARTIAL = ".partial"
SHARD, FACTS = ".tfrecord", ".json"
# what builds leave in the working folder, also those that were killed; and what systems put into any folder
WORK = re.compile(
    r"[0-9a-f]{32}\.(tfrecord|json)|counter|outcomes\.tmp|\.[0-9a-f]{8}\.(tmp|old)\..+|\.DS_Store|\.nfs.*"
)


def partial(out: Path) -> Path:
    """Return the working folder of the data set `out`, which is there while a build runs or after one was stopped."""
    return out.with_name(out.name + PARTIAL)


@contextlib.contextmanager
def opened(out: Path) -> Iterator[Path]:
    """Yield the working folder of the data set `out`, for this process alone.

    It is removed when the block ends well, and kept when it does not and shards are done.

    Raises:
        InputError: another process builds the same data set, or the folder cannot be written.
    """
    folder = partial(out)
    foreign = sorted(path.name for path in folder.iterdir() if not WORK.fullmatch(path.name)) if folder.is_dir() else []
    if foreign:
        raise InputError(
            f"{folder}, where {out} would be prepared, holds {foreign[0]}, which no build made; move it away, or give "
            "another --out."
        )
    make_folder(folder)
    with alone_in(folder, f"Another run is building {out}; wait for it, or give another --out."):
        for path in folder.glob(".*"):  # a run that was killed while it wrote
            path.unlink()
        recover(out.parent, out.name)
        try:
            yield folder
        except BaseException:
            if any(folder.glob(f"*{FACTS}")):
                log.info("What is done is kept in %s; the next run goes on from there.", folder)
            else:
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def fingerprint(key: bytes, task, changed_ns: int | None = None) -> str:
    """Return the name of a shard: a keyed hash of the program's version and of the fields of its task (a dataclass).

    Args:
        key: of the pseudonyms.
        task: what the shard is made of, see `build.shards.Task`.
        changed_ns: when a scan last changed, where that makes a difference, see `build.shards.name_of`.
    """
    facts = {"schema": records.SCHEMA_VERSION, "version": cyclescan.__version__} | dataclasses.asdict(task)
    facts |= {} if changed_ns is None else {"changed_ns": changed_ns}
    return pseudonyms.digest(key, json.dumps(facts, sort_keys=True))


def done(folder: Path, name: str) -> dict | None:
    """Return the facts of the shard with this fingerprint, when the working folder has it whole."""
    facts = folder / (name + FACTS)
    if not facts.exists():
        return None
    found = read_json(facts)
    return found if _has_size(folder / (name + SHARD), found["bytes"]) else None


def save_facts(shard: Path, facts: dict) -> None:
    """Declare a shard of the working folder done."""
    write_json(shard.with_suffix(FACTS), facts)


def read_info(folder: Path) -> dict:
    """Return the dataset.json of a data set, each of the entries that this program relies on of the form that `build`
    writes.

    Raises:
        InputError: it is missing, or is not that.
    """
    path = folder / DATASET
    info = read_json(path)
    if not isinstance(info, dict) or not set(FORMS) <= set(info):
        missing = sorted(set(FORMS) - set(info if isinstance(info, dict) else ()))
        raise InputError(f"{path} is not of a data set: it lacks {', '.join(missing)}.")
    if info["schema_version"] not in records.READABLE:
        raise InputError(
            f"{folder} has schema version {info['schema_version']}; this program reads {records.READABLE_TEXT}."
        )
    for key, has_form in FORMS.items():
        if not has_form(info[key]):
            raise InputError(f"{path} is not of a data set: {key} is not what `build` writes there.")
    return info


def _are_numbers(value, kinds) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(n, kinds) for n in value)


def _are_domains(value) -> bool:
    return isinstance(value, dict) and all(_has(value.get(d), {"name": str}) for d in DOMAINS)


def _are_splits(value) -> bool:
    return isinstance(value, dict) and all(
        _has(value.get(s), dict.fromkeys(DOMAINS, list))
        and all(isinstance(name, str) for d in DOMAINS for name in value[s][d])
        for s in SPLITS
    )


def are_shards(value) -> bool:
    """Return whether it states shards as `build` and `pair` do: records, bytes, sha256 and, for scans, what each is."""
    return isinstance(value, dict) and all(
        _has(facts, {"records": int, "bytes": int, "sha256": str})
        and isinstance(facts.get("scans", []), list)
        and all(_has(about, {"subject": str, "content": str}) for about in facts.get("scans", []))
        for facts in value.values()
    )


def _has(value, kinds: Mapping[str, type]) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), kind) for key, kind in kinds.items())


FORMS = {
    "schema_version": lambda value: isinstance(value, int),
    "spacing_mm": lambda value: _are_numbers(value, (int, float)) and all(0 < n < 1e6 for n in value),
    "shape": lambda value: value is None or _are_numbers(value, int),
    "disjoint": lambda value: isinstance(value, bool),
    "domains": _are_domains,
    "splits": _are_splits,
    "shards": are_shards,
}


@dataclasses.dataclass(frozen=True)
class Previous:
    """The data set that stands at RECORDS already.

    Attributes:
        info: its dataset.json.
        shards: where the shard of each fingerprint is, of those that are there in the stated size.
    """

    info: dict
    shards: dict[str, Path]

    def facts(self, name: str) -> dict | None:
        """Return what the data set says about the shard with this fingerprint, when it has it whole."""
        if name not in self.shards:
            return None
        path = self.shards[name]
        return self.info["shards"][f"{path.parent.name}/{path.name}"]


def previous(out: Path) -> Previous | None:
    """Return the data set at `out`; None where there is none, or none that this program wrote."""
    try:
        info = read_info(out)
    except InputError:
        return None
    shards = {
        facts["fingerprint"]: out / name
        for name, facts in info["shards"].items()
        if "fingerprint" in facts and _has_size(out / name, facts["bytes"])
    }
    return Previous(info, shards)


@contextlib.contextmanager
def publishing(out: Path, info: dict, shards: Mapping[str, Path], before: Previous | None) -> Iterator[Path]:
    """Put the data set together and let it take the place of what is at `out`, in one step.

    Yields the folder before it does, for what else belongs in it.

    Args:
        out: RECORDS.
        info: what dataset.json will say.
        shards: the file of each shard by its name in the data set.
        before: the data set that is at `out`; its pseudo-pairs stay where its training shards stay, and so do files
            that are not the data set's, such as the lists of `data_prep qc`.
    """
    with replacing(out) as folder:
        for split in SPLITS:
            make_folder(folder / split)
        for name, path in shards.items():
            _link(path, folder / name)
        yield folder
        if before and (out / PAIRS).is_dir():
            if _training(before.info) == _training(info):
                shutil.copytree(out / PAIRS, folder / PAIRS, copy_function=_link)
            else:
                log.warning("The pseudo-pairs of %s were of other training scans; make new ones: data_prep pair.", out)
        for path in out.iterdir() if out.is_dir() else ():
            if path.is_file() and not path.name.startswith(".") and path.name not in (DATASET, SPLIT_FILE):
                _link(path, folder / path.name)
        write_json(folder / DATASET, info)


def _training(info: dict) -> dict:
    return {name: facts["sha256"] for name, facts in info["shards"].items() if name.startswith("train/")}


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _link(source: str | Path, target: str | Path) -> None:
    """A second name for a file; a copy on file systems that know no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
