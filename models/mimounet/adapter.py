"""MIMO-UNet as a network of the pipeline."""

from __future__ import annotations

from torch import Tensor, nn

from models.mimounet.cfa_frm import CfaFrmUNet
from models.mimounet.network import MIMOUNet
from models.spec import Padding


class MIMOUNetRestorer(nn.Module):
    """Gives the full size where the published network returns [quarter, half, full].

    Args:
        network: the network with the published outputs.
    """

    size_multiple = 4
    padding: Padding = "reflect"

    def __init__(self, network: MIMOUNet | CfaFrmUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], sides multiples of 4; returns the same shape, unclamped."""
        return self.outputs(lq)[0]

    def outputs(self, lq: Tensor) -> list[Tensor]:
        """The restored images at full, half and quarter size."""
        images: list[Tensor] = self.network(lq)
        return images[::-1]

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the encoder's outputs at full, half and quarter size."""
        images, scales = self.network.features(lq)
        return images[-1], scales
