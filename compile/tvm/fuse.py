"""Sums that melt into the step that makes one of their terms, and the border that every tensor needs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from compile.tvm.steps import AddStep, ConvStep, Network, ResizeStep, Step, Tensor


def fuse_sums(network: Network) -> Network:
    """Let a convolution or a doubling add what an ``AddStep`` adds to its output, where nothing else reads that output."""
    steps: list[Step] = list(network.steps)
    readers = Counter(v.name for step in steps for v in step.inputs)
    for add in [s for s in steps if isinstance(s, AddStep)]:
        makers = {s.out.name: s for s in steps}
        for own, other in (add.inputs, add.inputs[::-1]):
            maker = makers.get(own.name)
            if isinstance(maker, ConvStep | ResizeStep) and len(maker.inputs) == 1 and readers[own.name] == 1 and own.name != other.name:
                steps[steps.index(add)] = replace(maker, inputs=(*maker.inputs, other), out=add.out)
                steps.remove(maker)
                break
    return replace(network, steps=tuple(steps))


def borders(network: Network) -> dict[str, int]:
    """How far beyond the image each tensor is read, by name; 0 for those that are not in it."""
    out: dict[str, int] = {}
    for step in network.steps:
        if isinstance(step, ConvStep) and isinstance(step.inputs[0], Tensor):
            name = step.inputs[0].name
            out[name] = max(out.get(name, 0), step.pad)
    return out
