"""A network as a list of steps over packed tensors: what ``network`` reads from ONNX and ``assemble`` turns into Relax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compile.tvm.kernels.finish import Activation
from compile.tvm.kernels.resize import Mode
from compile.tvm.kernels.tensors import Number, Place

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tensor:
    """A packed tensor; ``name`` is unique. ``channels`` are the network's own."""

    name: str
    height: int
    width: int
    channels: int
    number: Number

    def place(self, pad: int = 0) -> Place:
        """Where it lies in memory: integers in whole words of four channels."""
        stored = self.channels if self.number.is_float else -(-self.channels // 4) * 4
        return Place(self.height, self.width, stored, self.number, pad)


@dataclass(frozen=True, slots=True)
class Plain:
    """A float32 value in ONNX's own layout, by its name there."""

    name: str
    shape: tuple[int, ...]


Value = Tensor | Plain


@dataclass(frozen=True, slots=True)
class Step:
    """Something computed: ``out`` from ``inputs``. ``name`` is the ONNX node's."""

    name: str
    inputs: tuple[Value, ...]
    out: Value


@dataclass(frozen=True, slots=True)
class ConvStep(Step):
    """A convolution of ``inputs[0]``; ``inputs[1]``, if there, is added after rounding to ``grid``.

    weight      integers or floats [O, I, K, K]
    bias        int32 [O] in steps of the sums, without the share of the input's zero point; floats for a float input
    multiplier  float32 [O]: from sums to steps of ``grid`` (to real values for an activation that does more than clamp)
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    multiplier: NDArray[Any] | None
    stride: int
    pad: int
    depthwise: bool
    activation: Activation
    grid: Number


@dataclass(frozen=True, slots=True)
class ResizeStep(Step):
    """Doubles height and width of ``inputs[0]``; ``inputs[1]``, if there, is added after rounding to ``grid``."""

    mode: Mode
    grid: Number


@dataclass(frozen=True, slots=True)
class AddStep(Step):
    """Sum of two tensors."""


@dataclass(frozen=True, slots=True)
class ConcatStep(Step):
    """Tensors behind each other along the channels; a single one changes its scale."""


@dataclass(frozen=True, slots=True)
class SpreadStep(Step):
    """A tensor of 4 C channels -> one of C channels, twice as high and wide: four blocks of channels as the pixels of a 2x2 cell."""


@dataclass(frozen=True, slots=True)
class MeanStep(Step):
    """Global average: a tensor -> a float tensor of one pixel."""


@dataclass(frozen=True, slots=True)
class GateStep(Step):
    """A tensor times a float tensor of one pixel."""


@dataclass(frozen=True, slots=True)
class UnshuffleStep(Step):
    """A plain image -> a tensor, space to depth by ``factor``."""

    factor: int


@dataclass(frozen=True, slots=True)
class ShuffleAddStep(Step):
    """A tensor, depth to space by ``factor``, plus a plain image -> a plain image."""

    factor: int


@dataclass(frozen=True, slots=True)
class ToPlainStep(Step):
    """A tensor as float32 in ONNX's layout."""


@dataclass(frozen=True, slots=True)
class FromPlainStep(Step):
    """A plain value as a tensor."""


@dataclass(frozen=True, slots=True)
class FloatStep(Step):
    """An ONNX node that no kernel covers: computed in float32 by TVM's own operators.

    node       ``onnx.NodeProto``
    constants  its constant inputs by name
    """

    node: Any
    constants: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Network:
    """The steps in order; ``sources`` is what goes in (the image), ``result`` what comes out."""

    steps: tuple[Step, ...]
    sources: tuple[Value, ...]
    result: Value
