"""How settings change while a run goes from 0 to 1."""

from __future__ import annotations


def learning_rate(progress: float, base: float, decay_from: float) -> float:
    """`base` until `decay_from`, then linearly to 0 at progress 1 (Zhu et al. 2017)."""
    if progress <= decay_from:
        return base
    return base * max(0.0, 1.0 - (progress - decay_from) / (1.0 - decay_from))
