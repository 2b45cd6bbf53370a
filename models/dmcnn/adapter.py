"""DMCNN as a network of the pipeline: images in [0, 1]."""

from __future__ import annotations

from torch import Tensor, nn

from models.dmcnn.network import DMCNN
from models.spec import Padding


class DMCNNRestorer(nn.Module):
    """Maps images to DMCNN's range and back.

    Args:
        network: in its own convention, images in [-1, 1].
    """

    padding: Padding = "reflect"

    def __init__(self, network: DMCNN) -> None:
        super().__init__()
        self.network = network
        self.size_multiple = network.size_multiple

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], sides multiples of ``size_multiple``; the same shape and range, unclamped."""
        out: Tensor = self.network(2 * lq - 1)
        return (out + 1) / 2

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the outputs of the encoder's scales and of the bottleneck, coarse last."""
        out, features = self.network.features(2 * lq - 1)
        return (out + 1) / 2, features
