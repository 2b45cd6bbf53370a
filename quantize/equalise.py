"""Two corrections of a calibrated network that need no training: equal channel ranges, and biases without the mean rounding error.

Both after Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019. Weights have a scale per
output channel here, so what unequal channels cost lies in the activation between two convolutions, which has one scale for all: the
ranges that are balanced are those of its channels on the calibration set (as in SmoothQuant, Xiao et al., ICML 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.spec import size_multiple
from quantize.insert import QuantConv, convolutions, set_all_float, set_float
from quantize.trace import Call, Role, Trace, trace

Convolution = nn.Conv2d | nn.ConvTranspose2d
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""f(s x) = s f(x) for s > 0, channel by channel; hard-swish and ReLU6 are not."""
LARGEST_FACTOR = 64.0
"""A nearly dead channel is not blown up further than this."""
_PROBE = 64


@dataclass(frozen=True, slots=True)
class Link:
    """Convolution -> homogeneous activation -> convolution, with no other reader in between: names of the three modules."""

    first: str
    activation: str
    second: str


def links(network: nn.Module) -> list[Link]:
    """Where equalisation is exact, in the order of computation; ``network`` has its batch normalisation folded."""
    multiple = size_multiple(network)
    side = max(1, _PROBE // multiple) * multiple
    seen = trace(network, torch.zeros(1, 3, side, side))
    found = (_link(call, seen) for call in seen.calls)
    return [link for link in found if link is not None]


def _link(act: Call, seen: Trace) -> Link | None:
    if act.role is not Role.ACTIVATION or type(act.module) not in HOMOGENEOUS or act.inputs[0] in seen.pooled:
        return None
    first, readers = seen.producer.get(act.inputs[0]), seen.consumers[act.output]
    if first is None or len(seen.consumers[act.inputs[0]]) != 1 or len(readers) != 1:
        return None
    second = readers[0]
    if not _dense_or_depthwise(second) or not isinstance(first.module, Convolution) or not _outputs_plain(first.module):
        return None
    return Link(first.name, act.name, second.name)


def _dense_or_depthwise(call: Call) -> bool:
    conv = call.module
    return isinstance(conv, Convolution) and (conv.groups == 1 or _is_depthwise(conv))


def _is_depthwise(conv: Convolution) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels


def _outputs_plain(conv: Convolution) -> bool:
    return conv.groups == 1 or isinstance(conv, nn.Conv2d)


def equalise(folded: nn.Module, images: Sequence[Tensor]) -> nn.Module:
    """A copy that computes the same to float rounding, with the channels between linked convolutions of similar range.

    A channel of range r that the next convolution reads with weights of at most w is divided by sqrt(r / w), as in Nagel et al.;
    before a depthwise convolution by r itself, because there its weights have a scale of their own and cost nothing.

    Args:
        folded: float, batch normalisation folded.
        images: float32 [1, 3, H, W] in [0, 1].
    """
    out = copy.deepcopy(folded)
    found = links(out)
    ranges = _channel_ranges(out, [link.activation for link in found], images)
    for link in found:
        first, second = out.get_submodule(link.first), out.get_submodule(link.second)
        if isinstance(first, Convolution) and isinstance(second, Convolution):
            _rescale(first, second, _factors(ranges[link.activation], second))
    return out


def _channel_ranges(network: nn.Module, names: Iterable[str], images: Sequence[Tensor]) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            sums[name] = sums.get(name, torch.zeros(out.shape[1])) + out.abs().amax((0, 2, 3)) / len(images)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            for image in images:
                network(image)
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _factors(ranges: Tensor, second: Convolution) -> Tensor:
    """float32 [C]: what the channels are divided by; 1 in the geometric mean, and for channels that say nothing."""
    if _is_depthwise(second):
        raw = ranges.clone()
    else:
        axis = 0 if isinstance(second, nn.ConvTranspose2d) else 1
        other = [d for d in range(second.weight.ndim) if d != axis]
        raw = (ranges / second.weight.detach().abs().amax(other).clamp_min(1e-12)).sqrt()
    dead = (ranges <= 0) | ~torch.isfinite(raw) | (raw <= 0)
    if bool(dead.all()):
        return torch.ones_like(raw)
    mean = raw[~dead].log().mean().exp()
    return torch.where(dead, torch.ones_like(raw), raw / mean).clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)


@torch.no_grad()
def _rescale(first: Convolution, second: Convolution, factors: Tensor) -> None:
    out_axis = 1 if isinstance(first, nn.ConvTranspose2d) else 0
    first.weight.div_(_along(factors, out_axis))
    if first.bias is not None:
        first.bias.div_(factors)
    in_axis = 0 if _is_depthwise(second) or isinstance(second, nn.ConvTranspose2d) else 1
    second.weight.mul_(_along(factors, in_axis))


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
    left_float = [q.source[0].name for q in convolutions(network).values() if not q.source[0].enabled]
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
