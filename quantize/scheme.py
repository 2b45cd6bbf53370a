"""The vocabulary of int8: ranges and granularities as values. Importing it loads neither numpy nor torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IntRange:
    """The integers that a quantized value may take, both ends included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for a whole tensor: activation [N, C, H, W] -> scale [1]."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale per output channel.

    Convolution weight [O, I, K, K], axis 0 -> scale [O]; transposed convolution weight [I, O, K, K], axis 1 -> scale [O].
    """

    axis: int = 0


ACTIVATIONS = IntRange(-128, 127)
"""Range of activations in steps; the zero point is 0, so [-128 s, 127 s] can be said with scale s."""

UNSIGNED = IntRange(0, 255)
"""Range in steps of tensors that cannot be negative, where every runtime of the target takes another zero point than 0: twice as fine."""

WEIGHTS = IntRange(-127, 127)
"""Range of weights: symmetric to the last integer, as TensorRT's weights are."""

GREY_LEVEL = 1 / 255
"""What pictures come and go in. A correction in whole grey levels, added to a picture, is what rounding the sum would have made of it."""

SMALLEST_SCALE = 1e-8
"""Floor of every scale: a tensor of zeros still has one."""

DEAD_CHANNEL = 1e-4
"""A channel's weight scale is at least this share of the layer's largest, so that its int32 bias cannot overflow."""
