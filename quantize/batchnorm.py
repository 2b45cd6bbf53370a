"""Batch normalisation that stays alive while its convolution is trained in int8 form.

The float branch (the convolution of the same input with its unrounded weight) is normalised in train mode, which moves the running
statistics; the rounded branch, which the loss sees, has those running statistics folded into its weight (Jacob et al., "Quantization
and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018, with the correction of Krishnamoorthi's
white paper, 2018: statistics of a batch never scale the weight that is rounded).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LiveBatchNorm(nn.Module):
    """Scale, shift and running statistics of a batch normalisation over O channels.

    Args:
        bn: where they are copied from; affine, with running statistics.
        momentum: share of a batch's statistics in the running ones.
    """

    def __init__(self, bn: nn.BatchNorm2d, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = bn.eps, momentum
        self.weight, self.bias = nn.Parameter(bn.weight.detach().clone()), nn.Parameter(bn.bias.detach().clone())
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", _copy(bn.running_mean))
        self.register_buffer("running_var", _copy(bn.running_var))

    @torch.no_grad()
    def see(self, y: Tensor) -> None:
        """Move the running statistics towards those of ``y``, float32 [N, O, H, W]."""
        variance, mean = torch.var_mean(y.float(), dim=(0, 2, 3))
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)

    def fold(self, weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that computes convolution and normalisation; ``axis``: of the weight's output channels."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shape = [1] * weight.ndim
        shape[axis] = -1
        return weight * scale.reshape(shape), self.bias - self.running_mean * scale


def _copy(statistic: Tensor | None) -> Tensor:
    if statistic is None:
        raise TypeError("batch normalisation without running statistics")
    return statistic.detach().clone()
