"""What follows a convolution or an interpolation in the same kernel: activation, requantization, a sum with another tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from compile.tvm.kernels.neon import limited
from compile.tvm.kernels.tensors import Number, Part, Place, part, read
from compile.tvm.kernels.vectors import broadcast, cast, clamp, join, lanes_of, shuffle, store

Activation = Literal["", "relu", "relu6", "hardswish", "hardsigmoid"]

CURVED = ("hardswish", "hardsigmoid")
"""Activations that do more than clamp."""

_STORE_LANES = 16
"""Narrow vectors are joined up to this many values before they are converted and stored."""


@dataclass(frozen=True, slots=True)
class Finish:
    """From computed values to stored ones.

    activation  applied first
    grid        what the values are then rounded to; where nothing is added, that of ``out``
    other       a tensor of the same size that is added
    out         what is written
    neon        in the instructions of aarch64, in which rounding to integers clamps as well
    """

    activation: Activation
    grid: Number
    out: Place
    other: Place | None = None
    neon: bool = False

    @property
    def linear(self) -> bool:
        """Whether the values may come in steps of ``grid``: an activation that only clamps does not care."""
        return self.activation not in CURVED

    def parts(self) -> list[Part]:
        """The kernel's last parameters: what is added, if anything, and the output."""
        return ([part("other", self.other)] if self.other else []) + [part("out", self.out)]

    def scaled(self, total: Any, multiplier: Any | None) -> Any:
        """Sums as what ``steps`` takes: times their multiplier, or, sums of floats being real values already, in steps of ``grid``."""
        value = cast("float32", total)
        if multiplier is not None:
            return value * multiplier
        ratio = 1 / self.grid.scale if self.linear else 1.0
        return value if ratio == 1 else value * broadcast(ratio, "float32", lanes_of(value))

    def steps(self, value: Any, other: Any, y: Any, x: Any, c: Any) -> Any:
        """Float32 values (in steps of ``grid`` when ``linear``, else real) -> steps of the output, for a vector at (y, x, c)."""
        n, low, high = lanes_of(value), self.grid.low, self.grid.high
        if not self.linear:
            gate = clamp(value + broadcast(3.0, "float32", n), 0.0, 6.0)
            value = (value * gate if self.activation == "hardswish" else gate) * broadcast(1 / (6 * self.grid.scale), "float32", n)
        if self._narrows:
            return value
        if self.activation in ("relu", "relu6"):
            low = 0.0
        if self.activation == "relu6":
            high = min(high, 6 / self.grid.scale)
        value = (limited if self.neon else clamp)(value, low, high)
        return value if self.other is None else self.plus(self.grid.rounded(value), other, y, x, c)

    def plus(self, value: Any, other: Any, y: Any, x: Any, c: Any) -> Any:
        """Steps of ``grid``, rounded and within it, and the added tensor's at (y, x, c) -> steps of the output."""
        place, n = self.other, lanes_of(value)
        if place is None:
            return value
        own, theirs = (broadcast(number.scale / self.out.number.scale, "float32", n) for number in (self.grid, place.number))
        return value * own + read(other, place.at(y, x, c), n, place.number) * theirs

    @property
    def _narrows(self) -> bool:
        """Whether rounding does the clamping, so that of an activation only the bound that is not the type's is left."""
        return self.neon and self.other is None and not self.out.number.is_float

    def _limited(self, stored: Any) -> Any:
        if not self._narrows or self.activation not in ("relu", "relu6"):
            return stored
        number = self.out.number
        info = np.iinfo(number.dtype)
        high = round(6 / number.scale) + number.zero if self.activation == "relu6" else info.max
        return limited(stored, max(number.zero, info.min), min(high, info.max))

    def write(self, buffer: Any, start: Any, steps: list[Any], keep: int) -> None:
        """Store the first ``keep`` values of vectors that lie behind each other."""
        lanes = lanes_of(steps[0])
        group = max(1, _STORE_LANES // lanes)
        for first in range(0, len(steps), group):
            values = join(steps[first : first + group])
            left = min(keep - first * lanes, lanes_of(values))
            stored = self._limited(self.out.number.stored(values, self.neon))
            store(buffer, start + first * lanes, stored if left == lanes_of(values) else shuffle([stored], range(left)))
