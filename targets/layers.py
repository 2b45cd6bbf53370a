"""What a network is to the estimator: a list of layers with what each computes and moves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import StageFailed

BYTES = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}
"""Bytes of one element by precision."""

EPILOGUES = frozenset({"Relu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul"})
"""Element-wise operators that runtimes compute inside the convolution before them."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one layer computes and moves.

    macs             multiply-accumulates
    read_elements    elements of all activation inputs
    write_elements   elements of the output
    weight_elements  elements of the weights
    precision        "int8", "fp16", "bf16" or "fp32": decides the peak rate and the bytes of an element
    """

    name: str
    op: str
    depthwise: bool
    macs: int
    read_elements: int
    write_elements: int
    weight_elements: int
    precision: str


def retype(layers: Iterable[LayerCost], precision: str) -> list[LayerCost]:
    """The layers with every floating-point one moved to ``precision``, as an engine built with --fp16 runs them; int8 ones stay."""
    return [layer if layer.precision == "int8" else replace(layer, precision=precision) for layer in layers]


def check_layers(layers: Sequence[LayerCost]) -> None:
    """Refuse what no network can be.

    Raises:
        StageFailed: no layer, a layer with negative or no elements, or an unknown precision.

    """
    if not layers:
        raise StageFailed("targets.estimator", "there is no layer to estimate", "pass the layers of a network")
    for layer in layers:
        _check(layer)


def _check(layer: LayerCost) -> None:
    counts = (layer.macs, layer.read_elements, layer.write_elements, layer.weight_elements)
    if not all(math.isfinite(c) and c >= 0 for c in counts) or layer.write_elements == 0:
        what = f"layer '{layer.name}' ({layer.op}) has impossible counts {counts}"
        raise StageFailed("targets.estimator", what, "macs and elements are >= 0, and every layer writes something")
    if layer.precision not in BYTES:
        raise StageFailed(
            "targets.estimator", f"layer '{layer.name}' has the unknown precision '{layer.precision}'", f"known: {', '.join(BYTES)}"
        )
