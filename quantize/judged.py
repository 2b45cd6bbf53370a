"""A candidate and what is known of it: PSNR image by image, and how it compares with another, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from eval.quality import placed_restorer, psnr
from pipeline.contract import Better, Evidence, Measurement, Pair


@dataclass(frozen=True)
class Judged:
    """A network and its PSNR per held-out picture in dB; ``int8`` when it is fake-quantized.

    float_tensors  activation tensors that were put back to float
    trained        it is no longer the input's network: its weights were trained here
    """

    name: str
    network: nn.Module
    psnr: tuple[float, ...]
    int8: bool
    float_tensors: tuple[str, ...] = field(default=())
    trained: bool = False

    @property
    def mean(self) -> float:
        """Mean PSNR on the held-out pictures in dB."""
        return float(np.mean(self.psnr))

    def against(self, other: Judged) -> Paired:
        """The difference to another, image by image: what this one gains."""
        return paired(self.psnr, other.psnr)


@dataclass(frozen=True, slots=True)
class Paired:
    """A difference over images in dB: its mean, the standard error of the mean, and the image that loses most (or gains least).

    ``error`` is NaN for a single image: it has no spread.
    """

    mean: float
    error: float
    worst: float

    def __str__(self) -> str:
        """``-0.012 ± 0.003 dB, worst image -0.050``; the figure behind ± is the standard error."""
        return f"{self.mean:+.3f} ± {self.error:.3f} dB, worst image {self.worst:+.3f}"


def paired(values: Sequence[float], reference: Sequence[float]) -> Paired:
    """The paired difference ``values`` - ``reference``; equal lengths, at least one."""
    difference = np.asarray(values, float) - np.asarray(reference, float)
    n = len(difference)
    error = float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return Paired(float(difference.mean()), error, float(difference.min()))


def psnr_per_image(network: nn.Module, pairs: Sequence[Pair]) -> tuple[float, ...]:
    """PSNR of every restored image in dB."""
    with placed_restorer(network) as restore:
        return tuple(psnr(restore(pair.lq), pair.gt) for pair in pairs)


def split_measurements(candidate: Judged, test: Sequence[Pair], reference: Judged) -> tuple[Measurement, ...]:
    """PSNR of a candidate on the held-out pictures (which chose it) and on test pairs (which did not), and its paired difference.

    ``psnr_delta`` is the difference to ``reference`` on the held-out pictures, with its standard error and worst image as conditions.
    """
    on_test = psnr_per_image(candidate.network, test)
    rows = [_psnr(values, split) for values, split in ((candidate.psnr, "calibrate"), (on_test, "test"))]
    if candidate is not reference:
        rows.append(_delta(candidate, reference))
    return tuple(rows)


def _psnr(values: tuple[float, ...], split: str) -> Measurement:
    conditions = {"split": split, "computed_by": "torch"}
    return Measurement("psnr", float(np.mean(values)), "dB", Better.HIGHER, len(values), Evidence.HOST, conditions, values)


def _delta(candidate: Judged, reference: Judged) -> Measurement:
    difference = candidate.against(reference)
    values = tuple(a - b for a, b in zip(candidate.psnr, reference.psnr, strict=True))
    conditions = {"split": "calibrate", "against": reference.name, "worst": round(difference.worst, 4)}
    if len(values) > 1:
        conditions["standard_error"] = round(difference.error, 4)
    return Measurement("psnr_delta", difference.mean, "dB", Better.HIGHER, len(values), Evidence.HOST, conditions, values)
