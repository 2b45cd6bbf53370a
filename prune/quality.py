"""Image quality of a network on a data set, on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from eval.quality import Restorer, evaluate, psnr, torch_restorer
from pipeline.contract import Measurement, PairSource


@contextmanager
def placed_restorer(network: nn.Module) -> Iterator[Restorer]:
    """A restorer over ``network``, which is on the CPU again afterwards."""
    try:
        yield torch_restorer(network.to("cuda" if torch.cuda.is_available() else "cpu"))
    finally:
        network.to("cpu")


def psnr_per_image(network: nn.Module, source: PairSource) -> list[float]:
    """PSNR of every restored image of ``source`` in dB."""
    with placed_restorer(network) as restore:
        pairs = (source[i] for i in range(len(source)))
        return [psnr(restore(pair.lq), pair.gt) for pair in pairs]


def measure(network: nn.Module, source: PairSource, samples: Path) -> list[Measurement]:
    """psnr, ssim, psnr_worst5 and psnr_gain; the restored images are written to ``samples``."""
    with placed_restorer(network) as restore:
        return evaluate(restore, source, samples).measurements()
