"""What a candidate may lose against the float network, and how large it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eval.quality import QualityResult
from pipeline.contract import Better, Evidence, Measurement


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a candidate.

    reference       quality of the float network on the same images
    max_drop        dB that the mean PSNR may lose
    max_drop_worst  dB that any single image may lose: a mean hides a ruined photograph
    max_size        MB (10**6 bytes), None for any size
    """

    reference: QualityResult
    max_drop: float
    max_drop_worst: float
    max_size: float | None = None

    def drops(self, quality: QualityResult) -> tuple[float, ...]:
        """What each image loses against the float network, in dB; negative where it gains."""
        return tuple(want - got for want, got in zip(self.reference.psnr, quality.psnr, strict=True))

    def fault(self, quality: QualityResult, size_mb: float) -> str:
        """Why a candidate does not pass; empty when it does. NaN never passes."""
        drops = self.drops(quality)
        mean, worst = sum(drops) / len(drops), worst_of(drops)
        if not mean <= self.max_drop:
            return f"loses {mean:.2f} dB on the mean of {len(drops)} images against the float network (at most {self.max_drop:g})"
        if not worst <= self.max_drop_worst:
            name = self.reference.names[drops.index(worst)]
            return f"loses {worst:.2f} dB on image '{name}' against the float network (at most {self.max_drop_worst:g} on any)"
        if self.max_size is not None and not size_mb <= self.max_size:
            return f"is too large: {size_mb:.2f} MB (at most {self.max_size:g})"
        return ""

    def measurement(self, quality: QualityResult) -> Measurement:
        """psnr_drop_worst: dB that the image with the largest loss loses against the float network."""
        drops = self.drops(quality)
        conditions = {"against": "float network", "split": "calibrate"}
        return Measurement("psnr_drop_worst", worst_of(drops), "dB", Better.LOWER, len(drops), Evidence.HOST, conditions, drops)


def worst_of(drops: tuple[float, ...]) -> float:
    """The largest, or NaN when one is NaN."""
    return max(drops) if all(map(math.isfinite, drops)) else math.nan
