"""Names of subjects replaced by keyed hashes; the key stays outside the data set.

Without the key nobody can test whether a known person is in a data set; with it, the same person keeps the same id
in every data set of one site.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.common.files import make_folder

KEY_VARIABLE = "CYCLESCAN_KEY_FILE"
DEFAULT_KEY_FILE = "~/.cyclescan/pseudonym.key"
KEY_BYTES = 32
DIGITS = 12


def key_file(given: str | os.PathLike | None = None) -> Path:
    """Return the key's file: the one given, else that of the variable CYCLESCAN_KEY_FILE, else the default."""
    return Path(given or os.environ.get(KEY_VARIABLE) or DEFAULT_KEY_FILE).expanduser()


def load_key(path: str | os.PathLike) -> bytes:
    """Read the key, or make one of 32 random bytes that only its owner can read.

    Raises:
        InputError: the file cannot be read or written, or does not hold exactly 32 bytes.
    """
    path = Path(path)
    if not path.exists():
        make_folder(path.parent)
        temporary = path.with_name(f".{secrets.token_hex(4)}.tmp.{path.name}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(KEY_BYTES))
            # a link, because it fails where another process has made the key first; that one is then read
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError as error:
            raise InputError(f"The key file {path} cannot be written: {error.strerror or error}.") from error
        finally:
            temporary.unlink(missing_ok=True)
    try:
        key = path.read_bytes()
    except OSError as error:
        raise InputError(f"The key file {path} cannot be read: {error.strerror or error}.") from error
    if len(key) != KEY_BYTES:
        raise InputError(f"The key file {path} holds {len(key)} bytes; a key has {KEY_BYTES}.")
    return key


def pseudonym(key: bytes, subject: str) -> str:
    """Return the id of a subject: "s" and the first 12 hexadecimal digits of HMAC-SHA256(key, name)."""
    digest = hmac.new(key, subject.encode("utf-8", "surrogateescape"), hashlib.sha256)
    return "s" + digest.hexdigest()[:DIGITS]


def scan_pseudonym(key: bytes, subject: str, domain_name: str, name: str) -> str:
    """Return the id of one scan: its subject's, a hyphen and 6 digits, made of the domain and the file's name."""
    own = pseudonym(key, "\0".join((subject, domain_name, name))).removeprefix("s")
    return f"{pseudonym(key, subject)}-{own[:6]}"


def digest(key: bytes, text: str) -> str:
    """Return what stands in a data set for a text that names people, places or files: 32 hexadecimal digits."""
    return hmac.digest(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hex()[:32]


def content(key: str, array: np.ndarray) -> str:
    """Return the same for voxels: equal arrays have equal digests, and without the key nobody can look for a known
    scan.
    """
    check = hmac.new(key.encode(), repr(array.shape).encode(), hashlib.sha256)
    check.update(np.ascontiguousarray(array, "<f4").data)
    return check.hexdigest()[:32]
