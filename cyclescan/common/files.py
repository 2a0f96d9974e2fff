"""Outputs that are either whole or absent, and folders of which each is entered once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from cyclescan.common.errors import InputError

log = logging.getLogger(__name__)


def refuse_foreign(path: str | os.PathLike, is_ours: Callable[[Path], bool], what: str) -> None:
    """The one rule of every writer: what stands at its output may be replaced when it is the writer's own, else not.

    Its own it is when its content says so, as `is_ours` tells, or when it is empty. To be asked before any work begins.

    Args:
        path: what would be replaced.
        is_ours: of an existing file, whether this writer made it.
        what: "page of `report`" and the like, for the sentence.

    Raises:
        InputError: the path is a folder, or a file that is not the writer's.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"The output {path} is a folder, where a {what} would be written; choose another name.")
    if path.exists() and path.stat().st_size > 0 and not is_ours(path):
        raise InputError(f"The output {path} exists and is no {what}, so it is not replaced; choose another place.")


def begins_with(path: str | os.PathLike, text: str) -> bool:
    """Return whether a file begins with this text; so a table is known by its columns."""
    with open(path, "rb") as stream:
        return stream.read(len(text.encode())) == text.encode()


def states(path: str | os.PathLike, *keys: str) -> bool:
    """Return whether a file is a JSON object with these keys; so a file of facts is known by what it states."""
    try:
        value = read_json(path)
    except InputError:
        return False
    return isinstance(value, dict) and set(keys) <= set(value)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends well.

    The block may create a file or a folder there. The temporary name keeps the suffixes of `path`, because
    writers choose their format by them. An existing file is replaced in one step; an existing folder is moved
    aside first and removed last. What a killed process leaves behind is put right by `recover`.

    Args:
        path: the file or folder to write.
        durable: afterwards the new content survives a machine that goes away, too. It takes the time of the disk.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp.{path.name}")
    try:
        try:
            yield temporary
            if durable:
                # content first, then the name: the other way round a crash leaves a good name on an empty file
                sync(temporary)
            if path.is_dir():
                aside = path.with_name(f".{uuid.uuid4().hex[:8]}.old.{path.name}")
                path.rename(aside)
                temporary.rename(path)
                shutil.rmtree(aside)
            else:
                temporary.replace(path)
            if durable:
                _sync_one(path.parent)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def sync(path: str | os.PathLike) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk (fsync)."""
    path = Path(path)
    for file in path.rglob("*") if path.is_dir() else ():
        _sync_one(file)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems have no such call for folders
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def remove_folder(path: str | os.PathLike) -> None:
    """Remove a folder so that a process killed meanwhile leaves nothing under its name."""
    path = Path(path)
    hidden = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp.{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def recover(folder: str | os.PathLike, name: str | None = None) -> None:
    """Put right what processes killed inside `replacing` left in a folder; none may be at work there.

    Half-written outputs are removed. A folder that was moved aside and has no successor yet gets its name back.

    Args:
        folder: the folder of the outputs.
        name: of one output; None for all.
    """
    folder = Path(folder)
    for path in sorted(folder.iterdir()):
        found = re.fullmatch(r"\.[0-9a-f]{8}\.(old|tmp)\.(.+)", path.name)
        if not found or name not in (None, found[2]):
            continue
        if found[1] == "old" and not (folder / found[2]).exists():
            path.rename(folder / found[2])  # killed between the two steps: the old one is all there is
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike, busy: str) -> Iterator[None]:
    """Hold a folder for this process alone; the hold ends with the block or with the process, however it ends.

    Args:
        folder: an existing folder.
        busy: what to say when another process holds it.

    Raises:
        InputError: another process holds it.
    """
    # a lock of the operating system: it ends with its process, also with one that was killed
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): see to it that no other process uses it.", folder, error.strerror)
        yield
    finally:
        os.close(descriptor)


def make_folder(path: str | os.PathLike) -> Path:
    """Create a folder and its parents; `InputError` where that is not possible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise InputError(f"The folder {path} cannot be written: {error.strerror or error}.") from error
    return path


def walk(folder: str | os.PathLike) -> Iterator[Path]:
    """Yield files below a folder, but for names that begin with a dot, in a fixed order within each folder.

    Links are followed, each folder is entered once: a loop of links ends.

    Raises:
        InputError: a folder cannot be read.
    """
    seen = set()

    def stop(error: OSError) -> NoReturn:
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for root, folders, names in os.walk(os.fspath(folder), followlinks=True, onerror=stop):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # sorted, because which of two links to one folder is entered must not depend on the file system
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def write_text(path: str | os.PathLike, text: str, durable: bool = False) -> None:
    """Write a text file in one step (UTF-8); `durable` as in `replacing`."""
    with replacing(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object, durable: bool = False) -> None:
    """Write JSON in one step. Numbers that are not finite become null: JSON has no word for them."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", durable)


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def read_json(path: str | os.PathLike) -> dict:
    """Read a JSON object; `InputError` when it is missing or is not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from error


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
