"""The quantization parameters of a network as plain numbers, and the JSON file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantize.scheme import ACTIVATIONS, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ActivationScale:
    """An activation tensor: float = steps x scale; a stored integer is steps + zero point.

    shares        name of the tensor that owns the scale (itself, unless an operator only moves values between them)
    non_negative  the tensor cannot be below 0
    unsigned      nor can any that shares its scale, and the scale has 255 steps above 0 instead of 127
    """

    scale: np.float32
    shares: str
    non_negative: bool
    unsigned: bool = False

    @property
    def zero_s8(self) -> int:
        """Zero point where it is stored in signed 8 bit."""
        return -128 if self.unsigned else 0

    @property
    def zero_u8(self) -> int:
        """Zero point where it is stored in unsigned 8 bit."""
        return 0 if self.non_negative else 128


@dataclass(frozen=True, slots=True)
class WeightScale:
    """A convolution's weight: float = integers x scale, one scale per index of ``axis``.

    scale: float32 [output channels]. integers: int8, the shape of the weight, within [-127, 127].
    """

    scale: NDArray[np.float32]
    axis: int
    integers: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class ConvTensors:
    """Names of the tensors of an int8 convolution; ``output``, behind its fused activation, is empty where it stays float."""

    input: str
    weight: str
    output: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """Every int8 tensor of a network by name; ``float_tensors`` and ``float_weights`` are those that were put back to float."""

    activations: Mapping[str, ActivationScale]
    weights: Mapping[str, WeightScale]
    float_tensors: tuple[str, ...] = ()
    convolutions: Mapping[str, ConvTensors] = field(default_factory=dict)
    float_weights: tuple[str, ...] = ()

    def without(self, tensor: str) -> Parameters:
        """The same with one tensor, all that share its scale, and the weights of the convolutions that read them in float."""
        leader = self.activations[tensor].shares
        group = {name for name, a in self.activations.items() if a.shares == leader}
        convs = {name: c for name, c in self.convolutions.items() if c.input not in group}
        kept = {c.weight for c in convs.values()}
        return Parameters(
            {name: a for name, a in self.activations.items() if name not in group},
            {name: w for name, w in self.weights.items() if name in kept},
            (*self.float_tensors, *sorted(group)),
            convs,
            (*self.float_weights, *sorted(set(self.weights) - kept)),
        )

    @property
    def unsigned(self) -> bool:
        """Whether some tensors have 255 steps above 0."""
        return any(a.unsigned for a in self.activations.values())

    def scale_range(self) -> tuple[float, float]:
        """Smallest and largest activation scale."""
        scales = [float(a.scale) for a in self.activations.values()]
        return min(scales), max(scales)

    def to_json(self) -> dict[str, Any]:
        """The content of ``quantization.json``; a float32 survives the way through its decimal form exactly."""
        activations = {
            name: {
                "scale": float(a.scale),
                "zero_point": a.zero_s8,
                "shares": a.shares,
                "non_negative": a.non_negative,
                "unsigned": a.unsigned,
            }
            for name, a in self.activations.items()
        }
        weights = {name: {"scale": [float(s) for s in w.scale], "axis": w.axis} for name, w in self.weights.items()}
        convolutions = {name: {"input": c.input, "weight": c.weight, "output": c.output or None} for name, c in self.convolutions.items()}
        return {
            "schema": SCHEMA,
            "activation_range": [ACTIVATIONS.low, ACTIVATIONS.high],
            "weight_range": [WEIGHTS.low, WEIGHTS.high],
            "activations": activations,
            "weights": weights,
            "tensors": self._by_tensor(),
            "convolutions": convolutions,
            "float_tensors": list(self.float_tensors),
        }

    def _by_tensor(self) -> dict[str, Any]:
        """Every int8 and int32 tensor in one form: what a runtime that is given scales by tensor (LiteRT, TVM) reads."""
        rows: dict[str, Any] = {
            name: _row("activation", [float(a.scale)], None, a.zero_s8, a.zero_u8) for name, a in self.activations.items()
        }
        rows |= {name: _row("weight", [float(s) for s in w.scale], w.axis) for name, w in self.weights.items()}
        for name, conv in self.convolutions.items():
            scale = (self.activations[conv.input].scale * self.weights[conv.weight].scale).astype(np.float32)
            rows[f"{name}.bias"] = _row("bias", [float(s) for s in scale], 0)
        return rows


def _row(kind: str, scale: list[float], axis: int | None, zero_s8: int = 0, zero_u8: int = 0) -> dict[str, Any]:
    dtype = "int32" if kind == "bias" else "int8"
    u8 = {"dtype": "uint8" if kind == "activation" else dtype, "zero_point": zero_u8}
    return {"kind": kind, "scale": scale, "axis": axis, "s8": {"dtype": dtype, "zero_point": zero_s8}, "u8": u8}


def collect(network: nn.Module) -> Parameters:
    """The parameters of a prepared network as it stands (``quantize.insert.prepare``)."""
    from quantize.insert import convolutions, quantizers

    found = quantizers(network)
    activations = {
        name: ActivationScale(np.float32(q.scale.item()), q.leader.name, q.non_negative, q.unsigned)
        for name, q in found.items()
        if q.enabled
    }
    weights = {
        f"{name}.weight": WeightScale(c.weight_scale().numpy(), c.granularity.axis, c.integer_weight().numpy())
        for name, c in convolutions(network).items()
        if c.quantized
    }
    tensors = {
        name: ConvTensors(c.source[0].name, f"{name}.weight", c.result if c.result in activations else "")
        for name, c in convolutions(network).items()
        if c.quantized
    }
    return Parameters(activations, weights, tuple(name for name, q in found.items() if not q.enabled), tensors)
