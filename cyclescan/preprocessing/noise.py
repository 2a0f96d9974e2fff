"""Noise of the target's scans on a translation, for whoever compares histograms or needs images that look measured.

A translation is the mean of what the target's scan may be, so it has next to no noise, and its histogram is narrower
than that of a scan. Here it gets as much as it lacks: what is added and what varies from voxel to voxel already make,
squared and summed, the noise of the target's training scans, as `guard.measure` found it when the records were built.

An MR scan is a magnitude: its noise is Rician, two channels of normal noise of which one has the signal. The signal is
chosen so that the mean of the magnitude is the translation, noise or not; where the translation is darker than a
magnitude of that noise can be on average, as in air, the noise is that of a magnitude without signal and of this mean.
Hounsfield units are no magnitude: their noise is normal.

Sources: Gudbjartsson and Patz, Magn. Reson. Med. 34 (1995); Koay and Basser, J. Magn. Reson. 179 (2006).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from cyclescan.preprocessing import guard, intensity
from cyclescan.scans.volume import Volume

RICIAN, GAUSSIAN = "rician", "gaussian"
FLOOR = math.sqrt(math.pi / 2)  # mean of a magnitude without signal, in SDs of one channel
# The squared mean of a Rician magnitude less its squared signal falls from FLOOR^2 to 1 (in SDs) as the mean rises;
# with this rate the mean is right to 0.003 SD everywhere.
FALL = 1.18


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of a domain's scans.

    Attributes:
        kind: `RICIAN` or `GAUSSIAN`.
        sd: of one channel, in the unit of the intensities that translations into the domain have.
    """

    kind: str
    sd: float

    @classmethod
    def of(cls, domain: Mapping) -> Noise | None:
        """What an entry of `domains` in dataset.json, a run's config or a card says; None where it does not know."""
        limits = domain.get("guard", {}).get("limits", {})
        if "snr" not in limits or "body_50" not in limits:
            return None
        # both are of the median signal of the body, so their ratio is the noise on the scale of networks
        scaled = (limits["body_50"]["median"] + 1) / limits["snr"]["median"]
        width = intensity.of_differences(domain["intensity"])["high"] / 2
        hounsfield = intensity.parse(domain["scaling"])[0] == "window_hu"
        return cls(GAUSSIAN if hounsfield else RICIAN, scaled * width)

    def add(self, volume: Volume, rng: np.random.Generator) -> tuple[Volume, dict]:
        """A translation with as much noise as it lacks, and what was done.

        Args:
            volume: in any orientation, in the intensities of the domain.
            rng: of the noise.

        Returns:
            The volume, and `kind`, `sd_of_target`, `sd_of_translation` and `sd_added`, in its unit.
        """
        own = guard.noise_sd(volume)
        added = math.sqrt(max(self.sd**2 - own**2, 0.0))
        channels = rng.standard_normal((2, *volume.shape), np.float32)
        array = rician(volume.array, added, *channels) if self.kind == RICIAN else volume.array + added * channels[0]
        facts = {"kind": self.kind, "sd_of_target": self.sd, "sd_of_translation": own, "sd_added": added}
        return dataclasses.replace(volume, array=array.astype(np.float32)), facts


def rician(mean: np.ndarray, sd: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Magnitudes of two channels whose mean is given, float32.

    Args:
        mean: of the magnitudes, from 0; what is below counts as 0.
        sd: of the noise of one channel; where the mean is below `FLOOR` times it, the mean over `FLOOR`.
        first, second: standard normal numbers of the same shape.
    """
    mean = np.maximum(np.asarray(mean, np.float32), 0)
    own = np.minimum(np.float32(sd), mean / np.float32(FLOOR))
    over = np.divide(mean, own, out=np.full_like(mean, FLOOR), where=own > 0)
    lost = 1 + np.float32(FLOOR**2 - 1) * np.exp(-np.float32(FALL) * (over - np.float32(FLOOR)))
    signal = np.sqrt(np.maximum(mean**2 - own**2 * lost, 0))
    return np.hypot(signal + own * first, own * second)
