"""Which tensors have their channels in common: where a channel is scaled in one of them it is scaled in all.

A sum, an interpolation, a pooling and a homogeneous activation keep channels apart, so a factor per channel passes through them; dense
and depthwise convolutions make new channels of old ones, and there it can be undone. A residual stream with its skips is one space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from models.spec import size_multiple
from quantize.trace import INPUT, Call, Role, Trace, trace

Convolution = nn.Conv2d | nn.ConvTranspose2d
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
"""f(s x) = s f(x) for s > 0, channel by channel; hard-swish and ReLU6 are not."""
_PROBE = 64


@dataclass(frozen=True, slots=True)
class Space:
    """Tensors whose channels are the same: names of modules, in the order of computation.

    writers  convolutions that make them
    tensors  modules whose outputs they are: those that int8 rounds, so none before its convolution's activation and none pooled
    readers  convolutions that read them
    """

    writers: tuple[str, ...]
    tensors: tuple[str, ...]
    readers: tuple[str, ...]


def spaces(network: nn.Module) -> list[Space]:
    """Where scaling channels is exact; ``network`` has its batch normalisation folded.

    The image's own channels are left out, before the network and behind it, and so is what meets a module that is not known to keep
    channels apart.
    """
    multiple = size_multiple(network)
    side = max(1, _PROBE // multiple) * multiple
    seen = trace(network, torch.zeros(1, 3, side, side))
    members, fixed = _members(seen)
    found = (_space(numbers, seen) for root, numbers in sorted(members.items()) if root not in fixed)
    return [space for space in found if space.tensors and _one_width(space, network)]


def _members(seen: Trace) -> tuple[dict[int, list[int]], set[int]]:
    """Tensors by the first of those that they share channels with, and the firsts whose channels must stay as they are."""
    first: dict[int, int] = {}

    def find(number: int) -> int:
        while first.setdefault(number, number) != number:
            number = first[number]
        return number

    fixed = {INPUT}
    for call in seen.calls:
        alike, stays = _passes(call, seen)
        fixed.update(stays)
        roots = sorted({find(n) for n in alike})
        first.update(dict.fromkeys(roots[1:], roots[0]) if roots else {})
        fixed.update(n for n in (*call.inputs, call.output) if n not in seen.producer or not seen.consumers[n])
        for number in (*call.inputs, call.output):
            find(number)
    members: dict[int, list[int]] = {}
    for number in sorted(first):
        members.setdefault(find(number), []).append(number)
    return members, {find(n) for n in fixed}


def _passes(call: Call, seen: Trace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tensors at a call that share channels, and those whose channels must stay as they are."""
    everything = (*call.inputs, call.output)
    if isinstance(call.module, Convolution) and (call.module.groups == 1 or is_depthwise(call.module)):
        return (), ()
    if call.role in (Role.ADD, Role.RESIZE) or type(call.module) in HOMOGENEOUS:
        return everything, ()
    gates = tuple(n for n in call.inputs if n in seen.pooled)
    if call.role is Role.MUL and len(gates) == 1:
        return tuple(n for n in everything if n not in gates), gates
    return (), everything


def _space(numbers: list[int], seen: Trace) -> Space:
    made = [seen.producer[n] for n in numbers if n in seen.producer]
    writers = [call.name for call in made if isinstance(call.module, Convolution)]
    tensors = [call.name for call in made if call.output not in seen.pooled and not _inner(call, seen)]
    readers = [call.name for n in numbers for call in seen.consumers[n] if isinstance(call.module, Convolution)]
    return Space(tuple(writers), tuple(tensors), tuple(readers))


def _inner(call: Call, seen: Trace) -> bool:
    readers = seen.consumers[call.output]
    return call.role is Role.CONV and len(readers) == 1 and readers[0].role is Role.ACTIVATION


def _one_width(space: Space, network: nn.Module) -> bool:
    """False where a sum broadcast one channel over many, or where nothing undoes the factors."""
    return bool(space.writers and space.readers) and len(set(_widths(space, network))) == 1


def _widths(space: Space, network: nn.Module) -> Iterator[int]:
    for names, side in ((space.writers, "out_channels"), (space.readers, "in_channels")):
        yield from (getattr(network.get_submodule(name), side) for name in names)


def is_depthwise(conv: Convolution) -> bool:
    """One filter per channel."""
    return conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
