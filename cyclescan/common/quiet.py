"""TensorFlow's import without the notes that it writes about itself, and with one line for who waits.

They come from C++ before its log has a level, so no setting of TensorFlow's reaches them: whatever is written to the
file descriptor of stderr during the import is held back, and all but the known notes is written afterwards.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

log = logging.getLogger(__name__)

NOTES = re.compile(
    r"All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    r"|oneDNN custom operations are on"
    r"|Could not find cuda drivers on your machine, GPU will not be used"
    r"|This TensorFlow binary is optimized to use available CPU instructions"
    r"|To enable the following instructions: .* rebuild TensorFlow"
)
STDERR = 2


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Hold back what is written to stderr, by C++ too, and write at the end what is none of `NOTES`."""
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, STDERR)
            os.close(kept)
            held.seek(0)
            lines = held.read().splitlines(keepends=True)
            os.write(STDERR, b"".join(line for line in lines if not NOTES.search(line.decode(errors="replace"))))


class _Finder:
    """Finds TensorFlow as Python does, and has it imported `without_notes`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def quietly(module: ModuleType) -> None:
                log.info("TensorFlow is loading, which takes some seconds.")
                with without_notes():
                    execute(module)

            spec.loader.exec_module = quietly  # type: ignore[method-assign]  # of this one loader alone
        return spec


def quieten_tensorflow() -> None:
    """Have TensorFlow imported without its notes, whenever that is."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
