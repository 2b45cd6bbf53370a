"""SRN-DeblurNet as a network of the pipeline."""

from __future__ import annotations

from torch import Tensor, nn

from models.arch import Padding
from models.pyramid import pyramid
from models.srn.network import SRNDeblurNet


class SRNRestorer(nn.Module):
    """Takes one image in [0, 1] where the published network takes three in [-1, 1].

    The two coarser images are Pillow's bilinear reduction, as in the published training (a published test script uses bicubic).

    Args:
        network: the network with the published inputs and outputs.
    """

    size_multiple = 16
    padding: Padding = "replicate"

    def __init__(self, network: SRNDeblurNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], sides multiples of 16; returns the same shape, unclamped."""
        return self.outputs(lq)[0]

    def outputs(self, lq: Tensor) -> list[Tensor]:
        """The restored images at full, half and quarter size."""
        return [_from_signed(image) for image in self.network(*_signed_pyramid(lq))]

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the encoder's outputs at the finest scale: of the in-block and the two blocks behind it."""
        images, scales = self.network.features(*_signed_pyramid(lq))
        return _from_signed(images[0]), scales


def _signed_pyramid(lq: Tensor) -> list[Tensor]:
    return pyramid(lq * 2 - 1, 3, "antialias")


def _from_signed(image: Tensor) -> Tensor:
    return (image + 1) * 0.5
