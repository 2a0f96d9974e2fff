"""How a scan was made: repetition time, echo time, flip angle and field, where the files say so.

The facts come from DICOM tags (`cyclescan.dicom`) or from the JSON file that dcm2niix and BIDS put beside a NIfTI file
(BIDS 1.10, "Magnetic Resonance Imaging": RepetitionTime and EchoTime in seconds, FlipAngle in degrees,
MagneticFieldStrength in tesla). Nothing is guessed: what is not stated is None.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

from cyclescan.volume import stem


@dataclasses.dataclass(frozen=True)
class Acquisition:
    """Settings of the scanner; None where they are not known.

    Attributes:
        repetition_time_ms: TR.
        echo_time_ms: TE.
        flip_deg: flip angle.
        field_tesla: magnetic field strength.
    """

    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    flip_deg: float | None = None
    field_tesla: float | None = None


UNKNOWN = Acquisition()


def beside(path: str | os.PathLike) -> Acquisition:
    """What the JSON file beside a NIfTI file says; `UNKNOWN` where there is none or it says nothing.

    A sidecar that is damaged says nothing: the scan itself may be sound.
    """
    sidecar = Path(path).with_name(f"{stem(path)}.json")
    try:
        stated = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return UNKNOWN
    if not isinstance(stated, dict):
        return UNKNOWN
    tr, te = positive(stated.get("RepetitionTime")), positive(stated.get("EchoTime"))
    return Acquisition(
        None if tr is None else round(1000 * tr, 6),
        None if te is None else round(1000 * te, 6),
        positive(stated.get("FlipAngle")),
        positive(stated.get("MagneticFieldStrength")),
    )


def positive(value: object) -> float | None:
    """The value as a finite number above 0, else None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
