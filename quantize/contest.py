"""What the alternatives are held against, and who wins: all are judged by PSNR on held-out pictures.

These calibrated and trained none of them (``quantize.split``). The test set is for the report alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from models import checkpoint
from models.fold import fold_batchnorm
from models.spec import size_multiple
from pipeline.contract import StageContext
from quantize.calibrate import calibration_images
from quantize.insert import prepare, takes_unsigned
from quantize.judged import Judged, psnr_per_image
from quantize.split import split

FLOAT = "float"


class Contest:
    """The stage's input, batch norm folded, with everything that is derived from it.

    Args:
        ctx: the stage's context.

    Raises:
        UsageError: the input is no checkpoint of ours.
        StageFailed: nothing in the network can be quantized, or it is not finite on the calibration set.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ctx, self.config = ctx, ctx.config
        self.source = checkpoint.load(ctx.inputs["model"].path)
        self.folded = fold_batchnorm(self.source.module)
        self.parts = split(ctx.data["calibrate"], ctx.data["train"], self.config.images)
        ctx.progress.log(f"quantize: {self.parts.note}")
        self.images = list(calibration_images(self.parts.calibrating, size_multiple(self.folded)))
        self.unsigned = takes_unsigned(ctx.target, self.config.unsigned)
        self.prepared = prepare(self.folded, self.unsigned)
        self.float = self.judge(FLOAT, self.folded, int8=False)

    def spares_training(self, calibrated: Judged) -> bool:
        """Whether a calibration costs so little that no training is tried."""
        limit = self.config.enough
        return bool(limit > 0 and self.float.mean - calibrated.mean <= limit and self.fits_worst(calibrated))

    def choose(self, candidates: Sequence[Judged]) -> Judged:
        """The best int8 candidate, trained or not."""
        return self.best([c for c in candidates if c.int8])

    def best(self, candidates: Sequence[Judged]) -> Judged:
        """The highest mean among those whose worst image is within bounds (among all where none is); of those tied with it the one
        whose worst image loses least.
        """
        sound = [c for c in candidates if self.fits_worst(c)] or list(candidates)
        known = [c for c in sound if c.mean == c.mean] or sound
        leader = max(known, key=lambda c: c.mean)
        return max((c for c in known if c is leader or self.tied(leader, c)), key=lambda c: (c.against(self.float).worst, c.mean))

    def tied(self, one: Judged, other: Judged) -> bool:
        """Whether the paired difference is within ``margin`` dB or within its standard error over the held-out pictures."""
        gain = one.against(other)
        return abs(gain.mean) <= max(self.config.margin, gain.error if gain.error == gain.error else 0.0)

    def fits(self, candidate: Judged) -> bool:
        """Whether the losses on the held-out pictures are within both bounds; NaN is not."""
        return bool(self.float.mean - candidate.mean <= self.config.max_drop) and self.fits_worst(candidate)

    def fits_worst(self, candidate: Judged) -> bool:
        """Whether the image that loses most loses at most ``max_drop_worst`` dB; NaN does not."""
        return bool(-candidate.against(self.float).worst <= self.config.max_drop_worst)

    def judge(self, name: str, network: nn.Module, int8: bool, float_tensors: tuple[str, ...] = (), trained: bool = False) -> Judged:
        """Measure a network on the held-out pictures."""
        return Judged(name, network, psnr_per_image(network, self.parts.judging), int8, float_tensors, trained)
