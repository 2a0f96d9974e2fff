"""Set the environment before TensorFlow is imported by any test."""

import cyclescan  # noqa: F401
