"""Outputs that are either whole or absent, and folders of which each is entered once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from cyclescan.errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` when the block ends well.

    The block may create a file or a folder there. The temporary name keeps the suffixes of `path`, because
    writers choose their format by them. An existing file is replaced in one step; an existing folder is moved
    aside first and removed last.

    Raises:
        InputError: the folder cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}.tmp.{path.name}")
    try:
        try:
            yield temporary
            if path.is_dir():
                aside = path.with_name(f".{uuid.uuid4().hex[:8]}.old.{path.name}")
                path.rename(aside)
                temporary.rename(path)
                shutil.rmtree(aside)
            else:
                temporary.replace(path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


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
    """Files below a folder, but for names that begin with a dot, in a fixed order within each folder.

    Links are followed, each folder is entered once: a loop of links ends.

    Raises:
        InputError: a folder cannot be read.
    """
    seen = set()

    def stop(error: OSError):
        raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # sorted, because which of two links to one folder is entered must not depend on the file system
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in one step (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write JSON in one step. Numbers that are not finite become null: JSON has no word for them."""
    write_text(path, json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value):
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
    """The SHA-256 of a file's bytes as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
