"""Whether the scans of a domain are CT, whose intensities are Hounsfield units: by what they are, not by a name."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import numpy as np

from cyclescan.common.errors import InputError
from cyclescan.preprocessing import intensity
from data_prep import scans
from data_prep.build.request import BuildRequest
from data_prep.build.sources import Source
from data_prep.splits import DOMAINS

log = logging.getLogger(__name__)

NAMES = {"ct", "cbct", "cect", "ldct", "pct"}  # words of a domain's name that say CT
LOOKED_AT = 2  # scans of a domain that can be read
AIR_HU = (-1100.0, -850.0)
LEAST_AIR, LEAST_TISSUE, MOST_BELOW = 0.02, 0.005, 0.1  # of the voxels
TISSUE_HU = (-200.0, 3100.0)


def scalings(request: BuildRequest, sources: dict[str, list[Source]]) -> dict[str, str]:
    """Return how the intensities of each domain become [-1, 1]: as the request says, else by what its scans are.

    DICOM says it (Modality). Other files are CT when the first ones of them that can be read have air and tissue where
    Hounsfield units have them; where the name of a domain says CT and the values do not, the name counts, with a
    warning.
    """
    return {d: request.scalings[d] or _usual(request.names[d], d, sources[d]) for d in DOMAINS}


def _usual(name: str, domain: str, sources: Sequence[Source]) -> str:
    named = bool(NAMES & set(re.split(r"[_.-]", name.lower())))
    stated = [source.series.facts.get("Modality") for source in sources if source.series]
    if len(stated) == len(sources):
        is_ct, why = stated.count("CT") > len(stated) / 2, "by its Modality"
    else:
        is_ct, why = _by_values(sources), "by its values"
    if is_ct and not named:
        log.info("%s is CT %s: %s; --scaling-%s chooses another.", name, why, intensity.CT_SCALING, domain)
    if named and not is_ct:
        log.warning(
            "%s is taken for CT by its name and gets %s, and is not CT %s; --scaling-%s chooses another.",
            name, intensity.CT_SCALING, why, domain,
        )  # fmt: skip
    return intensity.CT_SCALING if is_ct or named else intensity.MR_SCALING


def _by_values(sources: Sequence[Source]) -> bool:
    """Whether the first scans that can be read, those that have voxels of their own to read, hold Hounsfield units."""
    seen = []
    for source in sources:
        try:
            seen.append(are_hounsfield(scans.read(source, source.index).array))
        except InputError:
            continue  # it will fail, and be listed, when its shard is written
        if len(seen) == LOOKED_AT:
            break
    return bool(seen) and all(seen)


def are_hounsfield(array: np.ndarray) -> bool:
    """Return whether the intensities of a scan are Hounsfield units: there is air at -1000, tissue around 0, hardly
    less.

    What a scanner wrote beyond its field of view is one value, and counts for nothing.
    """
    air = np.mean((array > AIR_HU[0]) & (array < AIR_HU[1]))
    tissue = np.mean((array > TISSUE_HU[0]) & (array < TISSUE_HU[1]))
    below = np.mean((array < AIR_HU[0]) & (array != array.min()))
    return bool(air >= LEAST_AIR and tissue >= LEAST_TISSUE and below <= MOST_BELOW)
