"""What the estimator takes a network apart into: units that a runtime runs as one, each of a kind whose cost can be learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from targets.layers import BYTES, CONVOLUTIONS, EPILOGUES, LayerCost

FRAME = "frame"
"""The call itself, once per network."""

NARROW = 16
"""Dense convolutions with fewer channels on either side, next to the image, fill no vector: they are a kind of their own."""

LIKE = {"narrow": "dense"}
"""The kind that stands in for one that was not measured."""

_KINDS = {"GlobalAveragePool": "pool", "ReduceMean": "pool", "AveragePool": "pool", "MaxPool": "pool"}
_KINDS |= {"SpaceToDepth": "shuffle", "DepthToSpace": "shuffle"}
_FREE_ACTIVATIONS = {"Relu": ""}
_ACTIVATIONS = frozenset({"Relu", "Clip", "HardSwish", "HardSigmoid"})


@dataclass(frozen=True, slots=True)
class Unit:
    """Layers that run as one.

    kind       dense, narrow, pointwise, depthwise or deconv, followed by "+hardswish" and the like where an activation joins them; else the
               operator in small letters (add, mul, resize, pool, shuffle, concat, ...), with a "+" before it right behind a convolution
    precision  of its arithmetic
    macs       multiply-accumulates
    moved      bytes read and written, weights included
    layers     positions in the list of layers, the leading one first; empty for FRAME
    """

    kind: str
    precision: str
    macs: int
    moved: int
    layers: tuple[int, ...]

    @property
    def base(self) -> str:
        """The kind by itself: what stands in where the combination was not measured."""
        return self.kind.removeprefix("+").partition("+")[0]


def kind_of(layer: LayerCost) -> str:
    """Kind of one layer by itself."""
    if layer.op == "ConvTranspose":
        return "deconv"
    if layer.op not in CONVOLUTIONS:
        return _KINDS.get(layer.op, layer.op.lower())
    if layer.depthwise:
        return "depthwise"
    if _taps(layer) <= 1.5:
        return "pointwise"
    return "narrow" if min(_channels(layer)) < NARROW else "dense"


def mode_of(layers: Sequence[LayerCost]) -> str:
    """The precision that a network goes by: int8 when any of its layers is, else that of its first convolution."""
    found = [layer.precision for layer in layers]
    convolutions = [layer.precision for layer in layers if layer.op in CONVOLUTIONS]
    return "int8" if "int8" in found else (convolutions or found)[0]


def units_of(layers: Sequence[LayerCost]) -> list[Unit]:
    """Units in graph order, FRAME first.

    An activation joins the convolution right before it. Add and Mul right behind a convolution take its precision and are kinds of
    their own: whether they cost anything there is left to the measurement.
    """
    units = [Unit(FRAME, mode_of(layers), 0, 0, ())]
    head: LayerCost | None = None
    for position, layer in enumerate(layers):
        follows = head is not None and layer.op in EPILOGUES and layer.write_elements == head.write_elements
        if follows and layer.op in _ACTIVATIONS and units[-1].kind in _FILTERS:
            units[-1] = _joined(units[-1], layer.op, position)
            continue
        precision = head.precision if follows and head is not None else layer.precision
        if not follows:
            head = layer if layer.op in CONVOLUTIONS else None
        moved = (layer.read_elements + layer.write_elements + layer.weight_elements) * BYTES[precision]
        units.append(Unit("+" * follows + kind_of(layer), precision, layer.macs, moved, (position,)))
    return units


_FILTERS = frozenset({"dense", "narrow", "pointwise", "depthwise", "deconv"})


def _joined(unit: Unit, op: str, position: int) -> Unit:
    suffix = _FREE_ACTIVATIONS.get(op, f"+{op.lower()}")
    return Unit(unit.kind + suffix, unit.precision, unit.macs, unit.moved, (*unit.layers, position))


def _taps(layer: LayerCost) -> float:
    """Kernel positions per input position: k² / stride², exact where the convolution has no groups."""
    if 0 in (layer.macs, layer.read_elements, layer.weight_elements):
        return 1.0
    return layer.macs / (layer.read_elements * _channels(layer)[1])


def _channels(layer: LayerCost) -> tuple[float, float]:
    """Channels in and out of a convolution without groups.

    Those in follow from the reads for stride 1, where quantized weights may count among the reads; of the numbers that fit the
    arithmetic, one for each size of kernel, the nearest to that is taken.
    """
    width = layer.weight_elements * layer.write_elements / layer.macs
    by_reads, products = layer.read_elements * width / layer.write_elements, layer.macs / layer.write_elements
    exact = [products / k**2 for k in (1, 3, 5, 7) if products % k**2 == 0] or [by_reads]
    return min(exact, key=lambda n: abs(math.log(n / by_reads))), width
