"""Giving a prepared network its batch normalisation back for a training, and folding it again afterwards."""

from __future__ import annotations

import torch
from torch import nn

from quantize.batchnorm import LiveBatchNorm
from quantize.fake import WeightQuantization
from quantize.insert import convolutions


def enliven(network: nn.Module, source: nn.Module, momentum: float) -> int:
    """Give the convolutions of a prepared network back the batch normalisation that was folded into them.

    Args:
        network: prepared from ``source`` folded; changed in place.
        source: the same network before folding: modules with the children ``conv`` and ``bn``.
        momentum: see ``LiveBatchNorm``.

    Returns:
        How many there are: 0 where the source has none.
    """
    found = convolutions(network)
    done = 0
    for name, parent in source.named_modules():
        conv, bn = getattr(parent, "conv", None), getattr(parent, "bn", None)
        quantized = found.get(f"{name}.conv")
        if quantized is not None and isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d) and bn.affine and conv.bias is None:
            quantized.weight = nn.Parameter(conv.weight.detach().clone())
            quantized.bias = None
            quantized.add_module("batchnorm", LiveBatchNorm(bn, momentum))
            done += 1
    return done


def settle(network: nn.Module) -> None:
    """Fold what ``enliven`` gave back, in place, with the running statistics as they are now."""
    for conv in convolutions(network).values():
        _settle(conv)


def _settle(conv: WeightQuantization) -> None:
    live = conv.live
    if live is not None:
        with torch.no_grad():
            weight, bias = live.fold(conv.weight, conv.granularity.axis)
        del conv._modules["batchnorm"]
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
