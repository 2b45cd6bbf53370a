"""Layer normalisation over the channels of an image tensor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.Module):
    """Normalises every pixel over its channels (biased variance), then scales and shifts per channel.

    Args:
        channels: channels of the input [N, C, H, W].
        eps: added to the variance; published weights need 1e-6.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        if torch.onnx.is_in_onnx_export():
            return self._spelled_out(x)
        # The fused kernel works on the last axis; on channels_last tensors neither permutation copies anything.
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)

    def _spelled_out(self, x: Tensor) -> Tensor:
        """The same in elementary operators: TensorRT 8.5 does not read ONNX's LayerNormalization."""
        centred = x - x.mean(1, keepdim=True)
        normal = centred / (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
        return normal * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
