"""What the demo says of itself: seconds of each part, and a table at the end."""

from __future__ import annotations

import time
from pathlib import Path

from cyclescan import NOTICE


class Clock:
    """Seconds of each part of a tour."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """End a part; the next one begins."""
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now

    def sum(self, *names: str) -> float:
        """Return the seconds of several parts together."""
        return round(sum(self.laps[name] for name in names), 1)

    def seconds(self) -> dict:
        """Return what metrics.json says of the time."""
        return {
            "prepare": self.sum("phantom", "build", "pair"),
            "train": self.sum("train"),
            "translate": self.sum("translate"),
            "laps": self.laps,
            "total": self.sum(*self.laps),
        }


def table(metrics: dict, clock: Clock, out: Path, page: Path) -> str:
    """Return what the tour ends with: measures beside doing nothing, times, and where everything is."""
    lines = ["", f"{'':22}{'PSNR dB':>10}{'SSIM':>8}{'MAE':>8}   against the paired truth, on [-1, 1]"]
    for direction, names in (("a2b", "CISS to DESS"), ("b2a", "DESS to CISS")):
        lines.append(names)
        for method in ("identity", "histogram_matching", "translated"):
            values = metrics[direction][method]
            label = method.replace("_", " ")
            lines.append(f"  {label:20}{values['psnr']:10.2f}{values['ssim']:8.3f}{values['mae']:8.3f}")
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.laps.items())
    lines += [
        "",
        f"time    {spent}",
        f"report  {out / 'report.html'}",
        f"models  {out / 'saved_models'}",
        f"figures {out / 'metrics.json'}",
        f"page    {page.resolve().as_uri()}",
        f"These are {NOTICE.replace('image', 'images')}.",
        "",
    ]
    return "\n".join(lines)
