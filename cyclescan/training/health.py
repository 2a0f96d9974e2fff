"""Whether a run looks well: one sentence in the log for each thing that does not, and what to try.

Limits lie far from what healthy runs show, so that a sentence is worth reading; CONTRIBUTING.md has the figures.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping

import numpy as np

from cyclescan.config import Config
from cyclescan.training.validation import Seen

log = logging.getLogger(__name__)

WINDOWS = 10  # of logged means that a judgement on losses needs
ALIKE = 0.1  # variance between translations as a share of that between real volumes
OPPOSITE = -0.2  # correlation of a translation with the pseudo-pair's partner
NEARER = 0.6  # distance to the target of the negative image as a share of the image's own
AT_THE_END = 0.25  # share of voxels within `END` of -1 or 1, beyond that of real volumes
END = 0.01
ALL_RIGHT = 0.99  # accuracy of a discriminator
VANISHED = 1e-3  # gradient norm as a share of what it was
