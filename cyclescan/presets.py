"""The module `cyclescan.config.presets` under the name that scripts and notebooks of earlier versions know."""

from cyclescan.config.presets import PRESETS, preset

__all__ = ["PRESETS", "preset"]
