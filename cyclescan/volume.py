"""The module `cyclescan.scans.volume` under the name that scripts of earlier versions know."""

from cyclescan.scans.volume import *  # noqa: F403
