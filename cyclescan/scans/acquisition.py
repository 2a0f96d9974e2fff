"""What is known of how a scan was made beyond its grid: the sequence's parameters and the side it shows.

A NIfTI header has no place for them. dcm2niix and BIDS write them into a JSON file beside the scan, of which only the
numbers and the side named here are read: names, dates and free text never enter.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

# our key, BIDS' key in the JSON file, and the factor from BIDS' unit to ours
PARAMETERS = (
    ("repetition_time_ms", "RepetitionTime", 1000.0),
    ("echo_time_ms", "EchoTime", 1000.0),
    ("flip_deg", "FlipAngle", 1.0),
    ("field_tesla", "MagneticFieldStrength", 1.0),
)
LATERALITY = ("Laterality", "ImageLaterality", "FrameLaterality")  # DICOM (0020,0060), (0020,0062), (0020,9072)
WORDS = {"l": "left", "left": "left", "r": "right", "right": "right"}
ENTITY = re.compile(r"(?<![A-Za-z0-9])(?:hemi|side)-([A-Za-z]+)(?![A-Za-z0-9])")
LARGEST_SIDECAR = 2**20  # bytes; what is larger is something else


def side_of(text: object) -> str | None:
    """Return "left" or "right" for L, R, left or right in any case; None for anything else."""
    return WORDS.get(str(text).strip().lower())


def parameters(values: dict) -> dict[str, float]:
    """Return the known `PARAMETERS` in our units, from a mapping with BIDS' keys and units; others are left out."""
    known = {}
    for key, theirs, factor in PARAMETERS:
        value = values.get(theirs)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
            known[key] = float(value) * factor
    return known


def beside(path: str | os.PathLike, stem: str) -> dict:
    """Return what the name of a NIfTI file and the JSON file beside it say, as facts for `Volume.meta`.

    Args:
        path: the scan.
        stem: its name without the suffix.

    Returns:
        "acquisition", the known `parameters`; and "side", where it is known: the BIDS entity `hemi-L`, `hemi-R` (or
        `side-...`) of the name, else DICOM's laterality. A file that is missing or no JSON object says nothing.
    """
    path = Path(path)
    values = _json_object(path.with_name(f"{stem}.json"))
    entity = ENTITY.search(stem)
    stated = [entity.group(1) if entity else None, *(values.get(key) for key in LATERALITY)]
    side = next(filter(None, map(side_of, stated)), None)
    return {"acquisition": parameters(values), **({"side": side} if side else {})}


def _json_object(path: Path) -> dict:
    try:
        if path.stat().st_size > LARGEST_SIDECAR:
            return {}
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
