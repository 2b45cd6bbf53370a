"""Latency estimate: a roofline over a processor's peak rates, layer by layer.

After Williams, Waterman, Patterson: Roofline (CACM 2009). One layer takes::

    max(macs / (peak_macs * efficiency), bytes / (bandwidth * efficiency)) + launch

The result is an estimate from stated constants (evidence ``estimated``); it is never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import StageFailed
from pipeline.target import Rates

BYTES = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}
"""Bytes of one element by precision."""

EPILOGUES = frozenset({"Relu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul"})
"""Element-wise operators that runtimes compute inside the convolution before them."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

Bound = Literal["compute", "memory", "launch", "fused"]


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


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Estimated time of one layer in ms, and the term that decides it ("fused": inside the layer before it)."""

    name: str
    op: str
    ms: float
    bound: Bound


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated time of a network in ms, and that of its layers in graph order."""

    ms: float
    layers: tuple[LayerTime, ...]

    def by_bound(self) -> dict[str, float]:
        """Milliseconds by what bounds the layers."""
        total: dict[str, float] = {}
        for layer in self.layers:
            total[layer.bound] = total.get(layer.bound, 0.0) + layer.ms
        return total


def estimate(layers: Sequence[LayerCost], rates: Rates, *, fuse: bool = True) -> Estimate:
    """Estimate the latency of a network on one processor.

    Fusion rule: an operator of ``EPILOGUES`` that directly follows a convolution (or another fused operator) in graph order and
    writes as many elements as it did costs no launch and no arithmetic; it moves only what the convolution has not at hand, that is
    the second operand of Add and Mul. Its share is listed with bound "fused".

    Args:
        layers: at least one layer, in graph order.
        rates: peak rates and efficiencies of the processor.
        fuse: apply the fusion rule; False charges every layer for itself.

    Raises:
        StageFailed: no layer, a layer with negative or no elements, or a precision that the target has no rate for.

    """
    if not layers:
        raise StageFailed("targets.estimator", "there is no layer to estimate", "pass the layers of a network")
    times = []
    head: LayerCost | None = None
    for layer in layers:
        _check(layer)
        if fuse and head is not None and layer.op in EPILOGUES and layer.write_elements == head.write_elements:
            times.append(_fused(layer, head, rates))
            continue
        head = layer if layer.op in CONVOLUTIONS else None
        times.append(_alone(layer, rates))
    return Estimate(math.fsum(t.ms for t in times), tuple(times))


def retype(layers: Iterable[LayerCost], precision: str) -> list[LayerCost]:
    """The layers with every floating-point one moved to ``precision``, as an engine built with --fp16 runs them; int8 ones stay."""
    return [layer if layer.precision == "int8" else replace(layer, precision=precision) for layer in layers]


def peak_macs(rates: Rates, precision: str) -> float:
    """Peak multiply-accumulates per second; raises StageFailed when the target states none for the precision."""
    known: dict[str, float] = {str(k): v for k, v in rates.macs.items()}
    rate = known.get(precision, 0.0)
    if not (math.isfinite(rate) and rate > 0):
        have = ", ".join(sorted(known)) or "none"
        raise StageFailed(
            "targets.estimator", f"the target states no rate for {precision} (it has {have})", "add it to rates.*.macs in the target file"
        )
    return rate * 1e12


def _alone(layer: LayerCost, rates: Rates) -> LayerTime:
    efficiency = rates.depthwise_efficiency if layer.depthwise else rates.compute_efficiency
    compute = layer.macs / (peak_macs(rates, layer.precision) * efficiency) * 1e3
    elements = layer.read_elements + layer.write_elements + layer.weight_elements
    memory = _memory_ms(elements, layer.precision, rates)
    launch = rates.launch_us / 1e3
    bound: Bound = "launch" if launch > max(compute, memory) else "compute" if compute >= memory else "memory"
    return LayerTime(layer.name, layer.op, max(compute, memory) + launch, bound)


def _fused(layer: LayerCost, head: LayerCost, rates: Rates) -> LayerTime:
    extra = max(0, layer.read_elements - head.write_elements)
    return LayerTime(layer.name, layer.op, _memory_ms(extra, head.precision, rates), "fused")


def _memory_ms(elements: int, precision: str, rates: Rates) -> float:
    return elements * BYTES[precision] / (rates.bandwidth_gbs * 1e9 * rates.memory_efficiency) * 1e3


def _check(layer: LayerCost) -> None:
    counts = (layer.macs, layer.read_elements, layer.write_elements, layer.weight_elements)
    if not all(math.isfinite(c) and c >= 0 for c in counts) or layer.write_elements == 0:
        what = f"layer '{layer.name}' ({layer.op}) has impossible counts {counts}"
        raise StageFailed("targets.estimator", what, "macs and elements are >= 0, and every layer writes something")
    if layer.precision not in BYTES:
        raise StageFailed(
            "targets.estimator", f"layer '{layer.name}' has the unknown precision '{layer.precision}'", f"known: {', '.join(BYTES)}"
        )
