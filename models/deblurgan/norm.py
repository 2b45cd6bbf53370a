"""Instance normalisation whose statistics in eval mode are a choice."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Statistics = Literal["instance", "running"]
"""What normalises in eval mode: the image's own mean and variance, or the averages gathered in training."""


class InstanceNorm2d(nn.InstanceNorm2d):
    """Normalises every channel of every image over its pixels; without weights, eps 1e-5 (Ulyanov et al., 2016).

    In train mode the statistics are always the image's own, and the buffers ``running_mean`` and ``running_var`` follow them with
    momentum 0.1 (unbiased variance, mean over the batch), as ``torch.nn.InstanceNorm2d(track_running_stats=True)`` does. That layer
    turns to the buffers in eval mode; this one does so with ``statistics="running"`` only. A map of a single pixel has no statistics
    of its own: where they are called for, it passes unchanged, since normalising would erase it.

    Args:
        channels: of the input [N, C, H, W].
        statistics: used in eval mode.
    """

    def __init__(self, channels: int, statistics: Statistics = "instance") -> None:
        super().__init__(channels, affine=False, track_running_stats=True)
        self.statistics = statistics

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        if not self.training and self.statistics == "running":
            return F.batch_norm(x, self.running_mean, self.running_var, training=False, eps=self.eps)
        if x.shape[2] * x.shape[3] == 1:
            return x
        if not self.training:
            return F.instance_norm(x, eps=self.eps)
        return F.instance_norm(x, self.running_mean, self.running_var, momentum=self.momentum or 0.0, eps=self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The released weights are older than this counter, and nothing reads it.
        state_dict.setdefault(prefix + "num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *args)


def initialise(module: nn.Module) -> None:
    """DeblurGAN's start: weights of all convolutions from N(0, 0.02), biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
