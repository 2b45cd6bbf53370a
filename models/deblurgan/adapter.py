"""DeblurGAN in the pipeline's convention: images in [0, 1]."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.deblurgan.fpn_unet import FPNUNet
from models.deblurgan.network import ResnetGenerator
from models.spec import Padding


class DeblurGANRestorer(nn.Module):
    """Maps [0, 1] to the generator's [-1, 1] and back. The result is clamped, since the generator's is.

    Args:
        network: the generator.
    """

    padding: Padding = "reflect"

    def __init__(self, network: ResnetGenerator | FPNUNet) -> None:
        super().__init__()
        self.network = network
        self.size_multiple = network.size_multiple

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], sides multiples of ``size_multiple``; returns the same shape and range."""
        return self.features(lq)[0]

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the generator's features, coarse last."""
        x = 2 * lq - 1
        if self.network.smallest <= self.size_multiple:
            out, features = self.network.features(x)
            return 0.5 * out + 0.5, features
        out, features = self.network.features(_grow(x, self.network.smallest))
        return (0.5 * out + 0.5)[..., : lq.shape[2], : lq.shape[3]], features


def _grow(x: Tensor, smallest: int) -> Tensor:
    """``x``, its border repeated right and bottom to sides of at least ``smallest``; traced with free sizes too."""

    def missing(side: Any) -> Any:  # while a graph is traced, sizes are tensors
        return (smallest - side).clamp(min=0) if isinstance(side, Tensor) else max(0, smallest - side)

    right, bottom = missing(x.shape[3]), missing(x.shape[2])
    if isinstance(right, Tensor) or right or bottom:
        return F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x
