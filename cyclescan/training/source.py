"""The records that a run learns from: checked before the first step, and made into batches."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from cyclescan import dataset, records
from cyclescan.artifacts.direction import DIRECTIONS
from cyclescan.common.errors import InputError
from cyclescan.config import Config
from cyclescan.training import terms
from cyclescan.training.distribution import Distribution

log = logging.getLogger(__name__)

ENOUGH_PARTNERS = 10  # their mean has kept a tenth of their texture, as much as `losses.TEXTURE_KEPT` allows


class Source:
    """The training records of a folder, or its pseudo-pairs where a term needs them.

    Args:
        folder: made by `data_prep build`, and `data_prep pair`.
        config: the settings that are to learn from it.

    Attributes:
        folder: as given.
        about: what a run keeps of dataset.json: domains, spacing, axes and shape.

    Raises:
        InputError: it lacks what the terms need, or the patch is much larger than its volumes.
    """

    def __init__(self, folder: Path, config: Config):
        self.folder, self._config = folder, config
        info = records.read_info(folder)
        self.about = {key: info[key] for key in ("domains", "spacing_mm", "axes", "shape")}
        self._check_patch()
        contents = terms.batch_contents(config)
        if contents["paired"] and not (folder / "pairs").is_dir():
            raise InputError(
                f"The settings have a pair term (lambda_pair={config.lambda_pair:g}) but {folder}/pairs is missing; "
                f"make it with `python -m data_prep pair {folder}`, or take a preset that needs none, such as "
                "gradient_consistency."
            )
        split = "pairs" if contents["paired"] else "train"
        self._streams = {domain: dataset.open_stream(folder, split, domain) for domain in terms.DOMAINS}
        if contents["detail"]:
            self._check_partners()

    @property
    def fingerprint(self) -> str:
        """Return what tells these records from all others, see `records.fingerprint`."""
        streams = [self._streams[domain] for domain in terms.DOMAINS]
        return records.fingerprint(
            [entry for stream in streams for entry in stream.entries],
            [checksum for stream in streams for checksum in stream.checksums],
        )

    @property
    def finest_plane(self) -> tuple[int, int]:
        """Return the two axes of a batch whose voxels are smallest, of equal ones the later."""
        return finest_plane(self.about["spacing_mm"])

    def batches(self, seed: int, first: int, devices: Distribution) -> Iterator[dict[str, tf.Tensor]]:
        """Yield the batches of a worker, from step `first` on, see `dataset.batches`.

        Raises:
            InputError: the records were replaced or damaged meanwhile.
        """
        config = self._config
        try:
            yield from dataset.batches(
                self._streams,
                config.patch_shape,
                config.batch_size,
                seed,
                config.augment,
                **terms.batch_contents(config),
                spacing_mm=self.about["spacing_mm"],
                start=first,
                worker=devices.worker,
                workers=devices.workers,
            )
        except tf.errors.OpError as error:
            # what `Stream.read` raises comes in TensorFlow's words
            found = re.search(r"InputError: (.*)", str(error))
            if found is None:
                raise
            raise InputError(found.group(1)) from error

    def _check_patch(self) -> None:
        for domain in terms.DOMAINS:
            first = records.entries(self.folder, "train", domain)[0]
            shape = records.decode(records.read_at(*first)).voxels.shape
            if any(p > 2 * n for p, n in zip(self._config.patch_shape, shape, strict=True)):
                raise InputError(
                    f"patch_shape {','.join(map(str, self._config.patch_shape))} is more than twice the volumes of "
                    f"{self.folder}, which have {','.join(map(str, shape))} voxels in domain {domain}; choose a "
                    "smaller one with --set patch_shape=D,H,W."
                )

    def _check_partners(self) -> None:
        """Look whether the first pair of each domain tells how much detail its partners have, and how many they are."""
        config = self._config
        for direction in DIRECTIONS:
            source = direction.source
            pair = records.decode(records.read_at(*self._streams[source].entries[0]))
            if pair.partner_detail is None:
                raise InputError(
                    f"The settings need to know how much detail partners have (lambda_detail={config.lambda_detail:g}, "
                    f"texture={config.texture}), of which {self.folder}/pairs (domain {source}) knows nothing: it was "
                    f"made by an earlier version. For a new run make it again with `python -m data_prep pair "
                    f"{self.folder}`; to go on with a run on it, add --set lambda_detail=0 texture=none."
                )
            partners = len(pair.partner_subjects)
            if config.carries_texture(direction) and partners < ENOUGH_PARTNERS and not pair.is_own:
                log.warning(
                    "Texture is what a mean of many partners has lost. In %s/pairs it is one of %d, which has kept "
                    "more of it, so generated volumes of domain %s may get little or none.",
                    self.folder,
                    partners,
                    direction.target,
                )


def finest_plane(spacing_mm: list[float]) -> tuple[int, int]:
    """Return the two axes of a batch whose voxels are smallest, of equal ones the later."""
    first, second = sorted(range(3), key=lambda axis: (spacing_mm[axis], -axis))[:2]
    return min(first, second) + 1, max(first, second) + 1
