"""Two corrections of a calibrated network that need no training: equal channel ranges, and biases without the mean rounding error.

Both after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019. Weights have a scale per
output channel here, so what unequal channels cost lies in the activations, which have one scale for all of theirs: the ranges that are
balanced are those of the channels on the calibration set (as in SmoothQuant, Xiao et al., ICML 2023). Beyond both, a channel is scaled
wherever it occurs, along a whole residual stream and its skips (``quantize.spaces``), not between two convolutions alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import StageFailed
from quantize.insert import QuantConv, convolutions, quantizers, set_all_float, set_float
from quantize.spaces import Convolution, is_depthwise, spaces

LARGEST_FACTOR = 64.0
"""A nearly dead channel is not blown up further than this."""
_SMALLEST = 1e-12
_TOLERANCE = 1e-3
"""What float rounding may move the network's output by."""


def equalise(folded: nn.Module, images: Sequence[Tensor]) -> nn.Module:
    """A copy that computes the same to float rounding, with the channels of every space of similar range.

    A channel of range r, relative to the largest of its tensor, that dense convolutions read with relative weights of at most w is
    divided by sqrt(r / w), as in Nagel et al.; where only depthwise convolutions read it by r itself, because there its weights have a
    scale of their own and cost nothing. The largest r and w over the tensors and readers of the space count.

    Args:
        folded: float, batch normalisation folded.
        images: float32 [1, 3, H, W] in [0, 1], at least one.

    Raises:
        StageFailed: the copy computes something else, because the network computes outside of its modules.
    """
    out = copy.deepcopy(folded)
    found = spaces(out)
    ranges = _channel_ranges(out, {name for space in found for name in space.tensors}, images)
    for space in found:
        writers, readers = ([out.get_submodule(name) for name in names] for names in (space.writers, space.readers))
        _rescale(writers, readers, _factors([ranges[name] for name in space.tensors], readers))
    _prove_equal(out, folded, images[0])
    return out


@torch.no_grad()
def _prove_equal(equal: nn.Module, folded: nn.Module, image: Tensor) -> None:
    want = folded(image)
    change = float((equal(image) - want).abs().max() / want.abs().max().clamp_min(1))
    if not change <= _TOLERANCE:
        what = f"equal channel ranges change what {type(folded).__name__} computes by {change:.3g}: it computes outside of its modules"
        raise StageFailed("quantize", what, "make every operation of the network a module, or set equalise: false")


@torch.no_grad()
def _channel_ranges(network: nn.Module, names: Iterable[str], images: Sequence[Tensor]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            sums[name] = sums.get(name, torch.zeros(out.shape[1])) + out.abs().amax((0, 2, 3)) / len(images)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        for image in images:
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _factors(ranges: Sequence[Tensor], readers: Sequence[nn.Module]) -> Tensor:
    """float32 [C]: what the channels are divided by; 1 in the geometric mean, and for channels that say nothing."""
    largest = _largest_share(ranges)
    weights = [_input_weights(conv) for conv in readers if isinstance(conv, Convolution) and not is_depthwise(conv)]
    raw = (largest / _largest_share(weights).clamp_min(_SMALLEST)).sqrt() if weights else largest
    dead = (largest <= _SMALLEST) | ~torch.isfinite(raw) | (raw <= 0)
    if bool(dead.all()):
        return torch.ones_like(raw)
    mean = raw[~dead].log().mean().exp()
    return torch.where(dead, torch.ones_like(raw), raw / mean).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)


def _largest_share(values: Sequence[Tensor]) -> Tensor:
    """float32 [C]: of several [C], each over its own largest entry, the largest."""
    return torch.stack([v / v.max().clamp_min(_SMALLEST) for v in values]).amax(0)


def _input_weights(conv: Convolution) -> Tensor:
    axis = _input_axis(conv)
    return conv.weight.detach().abs().amax([d for d in range(conv.weight.ndim) if d != axis])


def _input_axis(conv: Convolution) -> int:
    return 0 if is_depthwise(conv) or isinstance(conv, nn.ConvTranspose2d) else 1


def _output_axis(conv: Convolution) -> int:
    return 0 if is_depthwise(conv) or isinstance(conv, nn.Conv2d) else 1


@torch.no_grad()
def _rescale(writers: Sequence[nn.Module], readers: Sequence[nn.Module], factors: Tensor) -> None:
    for conv in writers:
        if isinstance(conv, Convolution):
            conv.weight.div_(_along(factors, _output_axis(conv)))
            if conv.bias is not None:
                conv.bias.div_(factors)
    for conv in readers:
        if isinstance(conv, Convolution):
            conv.weight.mul_(_along(factors, _input_axis(conv)))


def _along(factors: Tensor, axis: int) -> Tensor:
    shape = [1] * 4
    shape[axis] = -1
    return factors.reshape(shape)


def correct_biases(network: nn.Module, images: Sequence[Tensor]) -> None:
    """Take from every int8 convolution's bias, in place, the mean error per output channel that rounding its input and weight makes.

    The mean is over the calibration set and over the float network's own inputs, so that each error is counted once, where it arises.

    Args:
        network: prepared and calibrated; tensors that are float stay so.
        images: float32 [1, 3, H, W] in [0, 1].
    """
    left_float = [name for name, q in quantizers(network).items() if not q.enabled]
    active = {name: conv for name, conv in convolutions(network).items() if conv.quantized}
    errors: dict[str, Tensor] = {}

    def watch(name: str, conv: QuantConv) -> Any:
        weight = conv.fake_weight().detach()

        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            error = conv.plain(conv.source[0].rounded(x), weight, None) - conv.plain(x, conv.weight, None)
            errors[name] = errors.get(name, torch.zeros(error.shape[1])) + error.mean((0, 2, 3)) / len(images)

        return hook

    handles = [conv.register_forward_pre_hook(watch(name, conv)) for name, conv in active.items()]
    try:
        set_all_float(network)
        with torch.no_grad():
            for image in images:
                network(image)
    finally:
        for handle in handles:
            handle.remove()
        set_float(network, left_float)
    for name, conv in active.items():
        bias = torch.zeros(len(errors[name])) if conv.bias is None else conv.bias.detach()
        conv.bias = nn.Parameter(bias - errors[name])
