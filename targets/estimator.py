"""Latency estimate: a roofline over a processor's peak rates, layer by layer, or what was measured there, where it was.

After Williams, Waterman, Patterson: Roofline (CACM 2009). One layer takes::

    max(macs / (peak_macs * efficiency), bytes / (bandwidth * efficiency)) + launch

Where the rates carry a calibration of the backend (``targets.calibration``), a unit of layers takes::

    launch + macs * us_per_mmac + bytes * us_per_mb

with the three learned for its kind on that processor; a kind without data keeps the roofline, and the estimate says so.
The result is an estimate (evidence ``estimated``); it is never a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import StageFailed
from pipeline.target import Calibration, KindCost, Rates
from targets.kinds import FRAME, LIKE, Unit, kind_of, mode_of, units_of
from targets.layers import BYTES, CONVOLUTIONS, EPILOGUES, LayerCost, check_layers, retype

__all__ = ["BYTES", "CONVOLUTIONS", "EPILOGUES", "Bound", "Estimate", "LayerCost", "LayerTime", "estimate", "peak_macs", "retype"]

Bound = Literal["compute", "memory", "launch", "fused"]


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Estimated time of one layer in ms, and the term that decides it ("fused": inside the layer before it).

    kind        what its cost was looked up by (``targets.kinds``)
    calibrated  from measurements on the processor, not from its peak rates
    """

    name: str
    op: str
    ms: float
    bound: Bound
    kind: str = ""
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated time of a network in ms, and that of its layers in graph order.

    model  "roofline"; or "calibrated", followed by the share of the time that still rests on the roofline where any does
    """

    ms: float
    layers: tuple[LayerTime, ...]
    model: str = "roofline"

    def by_bound(self) -> dict[str, float]:
        """Milliseconds by what bounds the layers."""
        return self._sums("bound")

    def by_kind(self) -> dict[str, float]:
        """Milliseconds by kind of operator."""
        return self._sums("kind")

    def _sums(self, field: str) -> dict[str, float]:
        total: dict[str, float] = {}
        for layer in self.layers:
            key = getattr(layer, field)
            total[key] = total.get(key, 0.0) + layer.ms
        return total


def estimate(layers: Sequence[LayerCost], rates: Rates, *, fuse: bool = True, backend: str = "") -> Estimate:
    """Estimate the latency of a network on one processor.

    Fusion rule of the roofline: an operator of ``EPILOGUES`` that directly follows a convolution (or another fused operator) in graph
    order and writes as many elements as it did costs no launch and no arithmetic; it moves only what the convolution has not at hand,
    that is the second operand of Add and Mul. Its share is listed with bound "fused". A calibration knows what its backend fuses.

    Args:
        layers: at least one layer, in graph order.
        rates: peak rates and efficiencies of the processor, and its calibrations.
        fuse: apply the fusion rule; False charges every layer for itself by the roofline.
        backend: whose calibration to use, e.g. onnxruntime; without a name, or without one of that name and precision: the roofline.

    Raises:
        StageFailed: no layer, a layer with negative or no elements, or a precision that the target has no rate for.

    """
    check_layers(layers)
    found = _calibration(rates, backend, mode_of(layers)) if fuse else None
    times = _roofline(layers, rates, fuse) if found is None else _calibrated(layers, rates, found)
    total = math.fsum(t.ms for t in times)
    return Estimate(total, tuple(times), "roofline" if found is None else _model(times, total))


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


def cost_of(unit: Unit, calibration: Calibration) -> KindCost | None:
    """What was learned for a unit's kind, else for the kind without its activation, else for the one most like it; None without any."""
    known = {(c.kind, c.precision): c for c in calibration.costs}
    kinds = (unit.kind, unit.base, LIKE.get(unit.base, ""))
    return next((known[kind, unit.precision] for kind in kinds if (kind, unit.precision) in known), None)


def _calibration(rates: Rates, backend: str, mode: str) -> Calibration | None:
    fitting = [c for c in rates.calibrations if c.backend == backend.rpartition(".")[2] and c.precision == mode]
    return fitting[-1] if backend and fitting else None


def _roofline(layers: Sequence[LayerCost], rates: Rates, fuse: bool) -> list[LayerTime]:
    times = []
    head: LayerCost | None = None
    for layer in layers:
        if fuse and head is not None and layer.op in EPILOGUES and layer.write_elements == head.write_elements:
            times.append(_fused(layer, head, rates))
            continue
        head = layer if layer.op in CONVOLUTIONS else None
        times.append(_alone(layer, rates))
    return times


def _calibrated(layers: Sequence[LayerCost], rates: Rates, calibration: Calibration) -> list[LayerTime]:
    """The leading layer of a unit carries its time; the others are listed as fused into it."""
    fallback = _roofline(layers, rates, fuse=True)
    times: list[LayerTime] = []
    for unit in units_of(layers):
        cost = cost_of(unit, calibration)
        if cost is None:
            times += [fallback[i] for i in unit.layers]
            continue
        name, op = (layers[unit.layers[0]].name, layers[unit.layers[0]].op) if unit.layers else (FRAME, FRAME)
        times.append(_learned(name, op, unit, cost))
        times += [LayerTime(layers[i].name, layers[i].op, 0.0, "fused", unit.kind, calibrated=True) for i in unit.layers[1:]]
    return times


def _learned(name: str, op: str, unit: Unit, cost: KindCost) -> LayerTime:
    launch, compute, memory = cost.launch_us, cost.us_per_mmac * unit.macs / 1e6, cost.us_per_mb * unit.moved / 1e6
    bound: Bound = "launch" if launch > max(compute, memory) else "compute" if compute >= memory else "memory"
    return LayerTime(name, op, (launch + compute + memory) / 1e3, bound, unit.kind, calibrated=True)


def _model(times: Sequence[LayerTime], total: float) -> str:
    rest = math.fsum(t.ms for t in times if not t.calibrated)
    kinds = sorted({t.kind for t in times if not t.calibrated and t.ms > 0})
    return f"calibrated; {rest / total:.0%} of it by the roofline ({', '.join(kinds)})" if kinds else "calibrated"


def _alone(layer: LayerCost, rates: Rates) -> LayerTime:
    efficiency = rates.depthwise_efficiency if layer.depthwise else rates.compute_efficiency
    compute = layer.macs / (peak_macs(rates, layer.precision) * efficiency) * 1e3
    elements = layer.read_elements + layer.write_elements + layer.weight_elements
    memory = _memory_ms(elements, layer.precision, rates)
    launch = rates.launch_us / 1e3
    bound: Bound = "launch" if launch > max(compute, memory) else "compute" if compute >= memory else "memory"
    return LayerTime(layer.name, layer.op, max(compute, memory) + launch, bound, kind_of(layer))


def _fused(layer: LayerCost, head: LayerCost, rates: Rates) -> LayerTime:
    extra = max(0, layer.read_elements - head.write_elements)
    return LayerTime(layer.name, layer.op, _memory_ms(extra, head.precision, rates), "fused", kind_of(layer))


def _memory_ms(elements: int, precision: str, rates: Rates) -> float:
    return elements * BYTES[precision] / (rates.bandwidth_gbs * 1e9 * rates.memory_efficiency) * 1e3
