"""SRN-DeblurNet as a network of the pipeline."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.pyramid import halve
from models.spec import Padding
from models.srn.network import SRNDeblurNet


class SRNRestorer(nn.Module):
    """Takes one image in [0, 1] where the published network takes three in [-1, 1].

    The coarser images are bilinear reductions, each from the one before: 2x2 means, or Pillow's wider filter. Published scripts disagree:
    training reduces with Pillow's bilinear filter, a test script with bicubic.

    Args:
        network: the network with the published inputs and outputs.
        pyramid: bilinear (2x2 means) or antialias (Pillow's).
    """

    size_multiple = 16
    padding: Padding = "replicate"

    def __init__(self, network: SRNDeblurNet, pyramid: Literal["bilinear", "antialias"] = "bilinear") -> None:
        super().__init__()
        self.network, self.pyramid = network, pyramid

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], sides multiples of 16; returns the same shape, unclamped."""
        return self.outputs(lq)[0]

    def outputs(self, lq: Tensor) -> list[Tensor]:
        """The restored images at full, half and quarter size."""
        return [_from_signed(image) for image in self.network(*self._signed_pyramid(lq))]

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the encoder's outputs at the finest scale: of the in-block and the two blocks behind it."""
        images, scales = self.network.features(*self._signed_pyramid(lq))
        return _from_signed(images[0]), scales

    def _signed_pyramid(self, lq: Tensor) -> list[Tensor]:
        full = lq * 2 - 1
        half = halve(full, self.pyramid)
        return [full, half, halve(half, self.pyramid)]


def _from_signed(image: Tensor) -> Tensor:
    return (image + 1) * 0.5
