"""Losses between two batches of images, float32 [N, 3, H, W]; each gives the mean over the batch as a 0-dimensional tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from train.config import LossName

Loss = Callable[[Tensor, Tensor], Tensor]


def l1(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(output, wanted)


def charbonnier(output: Tensor, wanted: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt(d² + eps²), a smooth L1 (Lai et al., LapSRN, CVPR 2017; eps as in MPRNet)."""
    return ((output - wanted).square() + eps * eps).sqrt().mean()


def mse(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(output, wanted)


def psnr(output: Tensor, wanted: Tensor) -> Tensor:
    """Negative PSNR in dB, averaged over images: 10 / ln 10 · mean of ln(MSE of the image + 1e-8).

    PSNRLoss of HINet (Chen et al., CVPRW 2021), with which NAFNet is trained; it falls as PSNR rises.
    """
    per_image = (output - wanted).square().mean(dim=(1, 2, 3))
    return 10 / math.log(10) * torch.log(per_image + 1e-8).mean()


def fft(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of the real and imaginary parts of the unnormalised 2-D Fourier transforms (MIMO-UNet, ICCV 2021).

    MIMO-UNet adds it to L1 with weight 0.1.
    """
    difference = output - wanted
    if difference.dtype in (torch.float16, torch.bfloat16):
        difference = difference.float()
    return torch.view_as_real(torch.fft.fft2(difference)).abs().mean()  # the transform is linear: one is enough


LOSSES: Mapping[LossName, Loss] = MappingProxyType({"l1": l1, "charbonnier": charbonnier, "mse": mse, "psnr": psnr, "fft": fft})
"""The losses by the names that configurations use."""
