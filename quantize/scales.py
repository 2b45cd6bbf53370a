"""The quantization parameters of a network as plain numbers, and the JSON file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantize.scheme import ACTIVATIONS, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ActivationScale:
    """An activation tensor: float = integer x scale.

    shares        name of the tensor that owns the scale (itself, unless an operator only moves values between them)
    non_negative  the tensor cannot be below 0
    """

    scale: np.float32
    shares: str
    non_negative: bool


@dataclass(frozen=True, slots=True)
class WeightScale:
    """A convolution's weight: float = integers x scale, one scale per index of ``axis``.

    scale: float32 [output channels]. integers: int8, the shape of the weight, within [-127, 127].
    """

    scale: NDArray[np.float32]
    axis: int
    integers: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Every int8 tensor of a network by name; ``float_tensors`` are those that were put back to float."""

    activations: Mapping[str, ActivationScale]
    weights: Mapping[str, WeightScale]
    float_tensors: tuple[str, ...] = ()

    def scale_range(self) -> tuple[float, float]:
        """Smallest and largest activation scale."""
        scales = [float(a.scale) for a in self.activations.values()]
        return min(scales), max(scales)

    def to_json(self) -> dict[str, Any]:
        """The content of ``quantization.json``; a float32 survives the way through its decimal form exactly."""
        activations = {
            name: {"scale": float(a.scale), "zero_point": 0, "shares": a.shares, "non_negative": a.non_negative}
            for name, a in self.activations.items()
        }
        weights = {name: {"scale": [float(s) for s in w.scale], "axis": w.axis} for name, w in self.weights.items()}
        return {
            "schema": SCHEMA,
            "activation_range": [ACTIVATIONS.low, ACTIVATIONS.high],
            "weight_range": [WEIGHTS.low, WEIGHTS.high],
            "activations": activations,
            "weights": weights,
            "float_tensors": list(self.float_tensors),
        }


def collect(network: nn.Module) -> Parameters:
    """The parameters of a prepared network as it stands (``quantize.insert.prepare``)."""
    from quantize.insert import convolutions, quantizers

    found = quantizers(network)
    activations = {
        name: ActivationScale(np.float32(q.scale.item()), q.leader.name, q.non_negative) for name, q in found.items() if q.enabled
    }
    weights = {
        f"{name}.weight": WeightScale(c.weight_scale().numpy(), c.granularity.axis, c.integer_weight().numpy())
        for name, c in convolutions(network).items()
        if c.quantized
    }
    return Parameters(activations, weights, tuple(name for name, q in found.items() if not q.enabled))
