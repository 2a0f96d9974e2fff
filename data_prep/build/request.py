"""What a data set is made of, as the user asks for it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import Options, intensity
from data_prep import splits

ONLY_HOW = ("out", "workers", "runner", "runner_options", "key_file", "overwrite")  # they change no byte


@dataclasses.dataclass(frozen=True)
class BuildRequest:
    """Everything that `build` is told.

    Attributes:
        a: name and scans of domain a, such as ("ciss", "scans/ciss"); see `scans.find` for what the path may be.
        b: the same for domain b. A subject of the same name in both is the same person.
        out: the folder to write. It must not hold anything but a data set that a call with the same arguments made,
            or with `overwrite` any data set.
        spacing_mm: working voxel size (depth, height, width) along right, superior, anterior; None: the median of
            all scans.
        shape: voxels (depth, height, width) to crop or pad to; None: every scan keeps its extent.
        split: TRAIN VAL TEST, see `splits.assign`; None: what the tables say, else `splits.DEFAULT_SPLIT`.
        split_by: "subject", of each site its share, or "site", see `splits.assign_sites`.
        split_file: divide as this table says instead, see `splits.read_file`; its subjects are the user's names or
            pseudonyms of the same key.
        disjoint: each training subject gives its scans to one domain only; validation and test keep both.
        scaling_a: see `intensity.measure`; None: a fixed HU window for CT, else percentiles, see `modality`.
        scaling_b: the same for domain b.
        n4: see `preprocessing.Options`, as the next two.
        side: "left" or "right".
        crop_body_mm: a margin.
        exclude: a file with the ids of scans to leave out, see `qc.read_ids`.
        volume: which volume of 4-D files to take, from 0; None refuses them.
        seed: of the split. The same seed gives the same records, but for the pseudonyms, whose key is secret.
        workers: processes; None: one for each CPU.
        runner: a runner of Apache Beam by name. DirectRunner is Beam's FnApiRunner, with one process for each worker.
        runner_options: options of Beam and of the runner, as on a command line.
        key_file: the key of the pseudonyms; None: see `pseudonyms.key_file`.
        overwrite: replace an existing data set.
        layout: the public data set that both paths are of, see `layouts`; None: see `scans.find`.
        subject: a regular expression that finds the subject in a path, see `scans.find`; None: see `persons`.
    """

    a: tuple[str, str | os.PathLike]
    b: tuple[str, str | os.PathLike]
    out: str | os.PathLike
    spacing_mm: Sequence[float] | None = None
    shape: Sequence[int] | None = None
    split: Sequence[float] | None = None
    split_by: str = "subject"
    split_file: str | os.PathLike | None = None
    disjoint: bool = False
    scaling_a: str | None = None
    scaling_b: str | None = None
    n4: bool = False
    side: str | None = None
    crop_body_mm: float | None = None
    exclude: str | os.PathLike | None = None
    volume: int | None = None
    seed: int = 0
    workers: int | None = None
    runner: str = "DirectRunner"
    runner_options: Sequence[str] = ()
    key_file: str | os.PathLike | None = None
    overwrite: bool = False
    layout: str | None = None
    subject: str | None = None

    def __post_init__(self):
        for name in self.names.values():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise InputError(f"The domain name {name!r} is not allowed; use letters, digits, '.', '-' and '_'.")
        if self.a[0] == self.b[0]:
            raise InputError(f"Both domains are named {self.a[0]!r}; they need different names.")
        for scaling in filter(None, self.scalings.values()):
            intensity.parse(scaling)
        Options(self.n4, self.side, self.crop_body_mm)
        if self.split is not None:
            splits.parse(self.split)
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers is {self.workers}; at least 1 is needed.")
        if self.volume is not None and self.volume < 0:
            raise InputError(f"--volume is {self.volume}; volumes are counted from 0.")
        if self.layout and self.subject:
            raise InputError(f"The layout {self.layout} knows its subjects; --subject is for folders without one.")

    @property
    def names(self) -> dict[str, str]:
        """Return the names of the domains by "a" and "b"."""
        return {"a": self.a[0], "b": self.b[0]}

    @property
    def paths(self) -> dict[str, str | os.PathLike]:
        """Return what the user gave for the scans of each domain."""
        return {"a": self.a[1], "b": self.b[1]}

    @property
    def scalings(self) -> dict[str, str | None]:
        """Return how the intensities of each domain become [-1, 1]; None where the scans decide."""
        return {"a": self.scaling_a, "b": self.scaling_b}

    @property
    def options(self) -> Options:
        """Return further steps of the preprocessing; checked."""
        return Options(self.n4, self.side, self.crop_body_mm)

    @property
    def folder(self) -> Path:
        """Return the folder to write."""
        return Path(self.out)

    def identity(self) -> dict:
        """Return what decides over the bytes of the data set, for its digest in dataset.json: two requests of one
        identity make the same data set from the same scans.
        """
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ONLY_HOW}
        if self.subject is None:
            del own["subject"]  # so that a data set of a version that did not know it is brought up to date
        return own | {d: (self.names[d], os.path.abspath(path)) for d, path in self.paths.items()}
