"""Image quality of a network on a data set, on the GPU where there is one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.quality import QualityResult, evaluate, placed_restorer
from pipeline.contract import Measurement, PairSource


def quality_of(network: nn.Module, source: PairSource) -> QualityResult:
    """PSNR and SSIM of every restored image of ``source``."""
    with placed_restorer(network) as restore:
        return evaluate(restore, source)


def measure(network: nn.Module, source: PairSource, samples: Path) -> list[Measurement]:
    """psnr, ssim, psnr_worst5 and psnr_gain; the restored images are written to ``samples``."""
    with placed_restorer(network) as restore:
        return evaluate(restore, source, samples).measurements()


@dataclass(frozen=True, slots=True)
class Loss:
    """What pruning cost on a data set: mean PSNR in dB, PSNR of the image that lost most in dB, that image, mean SSIM, and of how many
    images.
    """

    mean: float
    worst: float
    image: str
    ssim: float
    images: int

    def __str__(self) -> str:
        return f"{-self.mean:+.2f} dB on the calibration set (worst image {-self.worst:+.2f} dB, SSIM {-self.ssim:+.4f})"


def loss_between(before: QualityResult, after: QualityResult) -> Loss:
    """The loss from ``before`` to ``after``, of the same images; positive where quality fell."""
    drops = np.subtract(before.psnr, after.psnr)
    worst = int(np.argmax(drops))
    return Loss(
        float(drops.mean()), float(drops[worst]), before.names[worst], float(np.mean(before.ssim) - np.mean(after.ssim)), len(drops)
    )


class Reference:
    """A network's output on a few images, against which pruned ones are compared.

    Args:
        network: on the CPU.
        lq, gt: float32 [N, 3, H, W] in [0, 1].
    """

    def __init__(self, network: nn.Module, lq: Tensor, gt: Tensor) -> None:
        self._lq, self._gt = lq, gt
        self._out = self._restore(network)
        self._error = _mse(self._out, gt)

    @property
    def psnr(self) -> float:
        """Mean over images of PSNR in dB, of float images clamped to [0, 1]."""
        return float(-10 * torch.log10(self._error).mean())

    def lost(self, network: nn.Module) -> tuple[float, float]:
        """(PSNR lost in dB, PSNR lost in dB if every change of the output were error, independent of what was wrong before)."""
        out = self._restore(network)
        drop = 10 * torch.log10(_mse(out, self._gt) / self._error)
        risk = 10 * torch.log1p(_mse(out, self._out) / self._error) / math.log(10)
        return float(drop.mean()), float(risk.mean())

    def _restore(self, network: nn.Module) -> Tensor:
        with torch.inference_mode():
            out: Tensor = network.eval()(self._lq)
        return out.clamp(0, 1)


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
