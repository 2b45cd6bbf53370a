"""The alternatives and the choice between them: calibrations, trainings, and the float network that they are held against.

All are judged by PSNR on held-out pictures, which calibrated and trained none of them (``quantize.split``). The test set is for the
report alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from torch import nn

from models import checkpoint
from models.fold import fold_batchnorm
from models.spec import size_multiple
from pipeline.contract import StageContext
from quantize.calibrate import Histograms, Method, calibration_images, observe, set_scales
from quantize.equalise import correct_biases, equalise
from quantize.insert import prepare, takes_unsigned
from quantize.judged import Judged, psnr_per_image
from quantize.split import split
from quantize.trainings import CONTROL, planned, train_all

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

    def candidates(self) -> list[Judged]:
        """The int8 candidates, calibrated ones first, and the float control where one is asked for."""
        found = []
        for candidate in self._made():
            found.append(candidate)
            self.ctx.progress.log(f"quantize: {candidate.name} {candidate.against(self.float)} on held-out pictures")
        return found

    def _made(self) -> Iterator[Judged]:
        plain = self._calibrated(self.prepared, "ptq", self.config.calibration)
        yield from plain
        best = self.best(plain)
        refined = list(self._refined(best))
        yield from refined
        start = self.best([*plain, *refined])
        if planned(self) and not self.spares_training(start):
            for training, network in train_all(self, start.network, best.network):
                yield self.judge(training.name, network, int8=training.contender != CONTROL, trained=True)

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

    def _refined(self, best: Judged) -> Iterator[Judged]:
        """What equalisation and bias correction make of the best calibration."""
        method: Method = best.name.removeprefix("ptq-")  # type: ignore[assignment]
        if self.config.correct_bias:
            yield self._corrected(best)
        if self.config.equalise:
            equal = self._calibrated(prepare(equalise(self.folded, self.images), self.unsigned), "ptq-cle", (method,))[0]
            yield equal
            if self.config.correct_bias:
                yield self._corrected(equal)

    def _corrected(self, candidate: Judged) -> Judged:
        network = copy.deepcopy(candidate.network)
        correct_biases(network, self.images)
        return self.judge(f"{candidate.name}-bc", network, int8=True)

    def _calibrated(self, prepared: nn.Module, prefix: str, methods: Sequence[Method]) -> list[Judged]:
        histograms: Histograms = observe(prepared, self.images)
        found = []
        for method in methods:
            network = copy.deepcopy(prepared)
            set_scales(network, histograms, method)
            found.append(self.judge(f"{prefix}-{method}", network, int8=True))
        return found
