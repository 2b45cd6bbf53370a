"""Which module made which tensor: one forward pass, seen by hooks on the modules without children.

What a network computes outside of such modules stays invisible; a tensor made there has no producer.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.student.blocks import Add, Concat, HardSigmoid, Mul, Unshuffle

INPUT = 0
"""Number of the tensor that enters the network."""


class Role(enum.Enum):
    """What a module does to the integers that pass through it."""

    CONV = "convolution"
    ACTIVATION = "activation"
    ADD = "sum"
    CONCAT = "concatenation"
    MUL = "product"
    MOVE = "moves values"  # the same values elsewhere: the scale stays
    RESIZE = "interpolates"  # values between those of its input: the scale stays
    OTHER = "float"


_ROLES: tuple[tuple[tuple[type[nn.Module], ...], Role], ...] = (
    ((nn.Conv2d, nn.ConvTranspose2d), Role.CONV),
    ((nn.ReLU, nn.ReLU6, nn.Hardswish, nn.LeakyReLU, nn.PReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardsigmoid, HardSigmoid), Role.ACTIVATION),
    ((Add,), Role.ADD),
    ((Concat,), Role.CONCAT),
    ((Mul,), Role.MUL),
    ((Unshuffle, nn.PixelShuffle, nn.PixelUnshuffle, nn.MaxPool2d), Role.MOVE),
    ((nn.Upsample,), Role.RESIZE),
)
_NON_NEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, HardSigmoid)


def role_of(module: nn.Module) -> Role:
    """The role of a module, by its exact class: a subclass may compute something else."""
    return next((role for classes, role in _ROLES if type(module) in classes), Role.OTHER)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module: the numbers of the tensors that it took and made."""

    name: str
    module: nn.Module
    role: Role
    inputs: tuple[int, ...]
    output: int


@dataclass(slots=True)
class Trace:
    """The calls in order, and what follows from them for each tensor.

    pooled        one value per channel (behind a global pooling): squeeze-and-excite, which stays in float
    non_negative  cannot be below 0
    """

    calls: list[Call] = field(default_factory=list)
    producer: dict[int, Call] = field(default_factory=dict)
    consumers: dict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))
    pooled: set[int] = field(default_factory=set)
    non_negative: set[int] = field(default_factory=lambda: {INPUT})

    def add(self, call: Call) -> None:
        """Append a call."""
        self.calls.append(call)
        self.producer[call.output] = call
        for number in call.inputs:
            self.consumers[number].append(call)
        if _pools(call.module) or (call.inputs and all(i in self.pooled for i in call.inputs)):
            self.pooled.add(call.output)
        if self._never_negative(call):
            self.non_negative.add(call.output)

    def _never_negative(self, call: Call) -> bool:
        keeps_sign = call.role in (Role.ADD, Role.CONCAT, Role.MUL, Role.MOVE) or _interpolates_within(call.module)
        return isinstance(call.module, _NON_NEGATIVE) or (keeps_sign and all(i in self.non_negative for i in call.inputs))


def _pools(module: nn.Module) -> bool:
    return isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))


def _interpolates_within(module: nn.Module) -> bool:
    return isinstance(module, nn.Upsample) and module.mode in ("nearest", "bilinear")


def _tensors(args: tuple[Any, ...]) -> Iterator[Tensor]:
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, list | tuple):
            yield from _tensors(tuple(arg))


def trace(network: nn.Module, lq: Tensor) -> Trace:
    """Run ``network`` once on lq (float32 [N, 3, H, W]) and record the calls of its modules without children."""
    found, numbers, alive = Trace(), {id(lq): INPUT}, [lq]

    def number_of(tensor: Tensor) -> int:
        if id(tensor) not in numbers:
            alive.append(tensor)  # a freed tensor's id would be given to another one
            numbers[id(tensor)] = len(alive) - 1
        return numbers[id(tensor)]

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            inputs = tuple(number_of(a) for a in _tensors(args))
            if id(out) in numbers:
                if not getattr(module, "inplace", False):
                    return  # it handed its input on
                del numbers[id(out)]  # from here on it is another tensor
            found.add(Call(name, module, role_of(module), inputs, number_of(out)))

        return record

    leaves = [(n, m) for n, m in network.named_modules() if not any(m.children())]
    handles = [m.register_forward_hook(recorder(n)) for n, m in leaves]
    try:
        with torch.no_grad():
            network(lq)
    finally:
        for handle in handles:
            handle.remove()
    return found
