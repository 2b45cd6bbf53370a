"""Batch normalisation folded into the convolution before it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

Convolution = nn.Conv2d | nn.ConvTranspose2d


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """A copy in eval mode whose convolutions carry their batch normalisation as weight and bias; the input is left as it is.

    Found are the children ``conv`` and ``bn`` of one module, and neighbours in an ``nn.Sequential``. The copy computes the same
    to float rounding, and each folded ``bn`` is an ``nn.Identity``.
    """
    folded = copy.deepcopy(module).eval()
    for parent, conv_name, bn_name in list(_pairs(folded)):
        conv, bn = parent.get_submodule(conv_name), parent.get_submodule(bn_name)
        if isinstance(conv, Convolution) and isinstance(bn, nn.BatchNorm2d):
            _fold(conv, bn)
            setattr(parent, bn_name, nn.Identity())
    return folded


def _pairs(module: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    for parent in module.modules():
        names = [name for name, _ in parent.named_children()]
        if isinstance(parent, nn.Sequential):
            yield from ((parent, first, second) for first, second in pairwise(names))
        elif "conv" in names and "bn" in names:
            yield parent, "conv", "bn"


def _fold(conv: Convolution, bn: nn.BatchNorm2d) -> None:
    if bn.running_mean is None or bn.running_var is None:  # statistics of the batch: nothing constant to fold
        raise ValueError("batch normalisation without running statistics cannot be folded")
    with torch.no_grad():
        scale = (bn.running_var + bn.eps).rsqrt() * (1 if bn.weight is None else bn.weight)
        shift = (0 if bn.bias is None else bn.bias) - bn.running_mean * scale
        bias = shift if conv.bias is None else conv.bias * scale + shift
        conv.weight = nn.Parameter(_scaled(conv, scale))
        conv.bias = nn.Parameter(bias)


def _scaled(conv: Convolution, scale: Tensor) -> Tensor:
    """The weights times ``scale`` [O]: of [O, I / groups, k, k], or transposed of [I, O / groups, k, k]."""
    if not isinstance(conv, nn.ConvTranspose2d):
        return conv.weight * scale.view(-1, 1, 1, 1)
    grouped = conv.weight.view(conv.groups, -1, *conv.weight.shape[1:]) * scale.view(conv.groups, 1, -1, 1, 1)
    return grouped.view_as(conv.weight)
