"""Settings of a model and its training, and recipes by name."""

from cyclescan.config.settings import Config

__all__ = ["Config"]
