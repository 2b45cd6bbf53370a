"""Milliseconds that a tensor in float costs: estimated for the target, or measured on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from eval.cost import onnx_layers
from eval.latency import speedup
from eval.payoff import ModelFile, tile_side, time_files
from models.spec import size_multiple
from pipeline.contract import Evidence
from pipeline.errors import StageFailed
from quantize.emit import export_marked, flavoured
from quantize.lint import QdqGraph
from quantize.scales import Parameters, collect
from targets.estimator import LayerCost, estimate, retype

if TYPE_CHECKING:
    from pipeline.target import BackendChoice, TargetView

_SECONDS, _COUNT = 0.1, 15  # of each measurement: there is one for every tensor


@dataclass(frozen=True, slots=True)
class Costs:
    """What float costs, tensor by tensor.

    ms         tensor that owns a scale -> milliseconds added when it, and all that share the scale, are float; may be negative
    whole_ms   the network with all of them in int8
    evidence   estimated for the target, or measured on this host
    conditions frame, and how the figures came about
    """

    ms: Mapping[str, float]
    whole_ms: float
    evidence: Evidence
    conditions: Mapping[str, object]


def int8_choice(target: TargetView) -> BackendChoice | None:
    """The first backend that runs int8 on the target; None where none does."""
    found: BackendChoice | None = next((b for b in target.backends if "int8" in b.precisions), None)
    return found


def float_precision(target: TargetView) -> str:
    """What float means beside int8 on the target: fp16 on a GPU whose engines have it, else fp32, in which CPU artifacts leave the rest."""
    choice = int8_choice(target)
    return "fp16" if choice is not None and choice.runs_on == "gpu" and "fp16" in choice.precisions else "fp32"


def estimated(network: nn.Module, path: Path, target: TargetView) -> Costs:
    """Costs by the target's roofline at its frame size: the layers that read a tensor run in float when it does.

    Args:
        network: prepared, calibrated, on the CPU.
        path: its signed Q/DQ file.
        target: its ``rates``, ``backends`` and ``frame`` are read.

    Raises:
        StageFailed: the target states no rates for the processor that runs int8.
    """
    choice, precision = int8_choice(target), float_precision(target)
    runs_on = choice.runs_on if choice is not None else "cpu"
    rates = target.rates.get(runs_on)
    if rates is None:
        raise StageFailed(f"target {target.name}", f"states no rates for its {runs_on}", "add them to the target file")
    parameters, multiple = collect(network), size_multiple(network)
    height, width = (-(-side // multiple) * multiple for side in (target.frame.height, target.frame.width))
    layers = retype(onnx_layers(path, height, width), precision)
    backend = choice.use if choice is not None else ""
    found = estimate(layers, rates, backend=backend)
    whole = found.ms
    graph, ms = QdqGraph(path), {}
    for leader in _leaders(parameters):
        readers = _readers(graph, [n for n, a in parameters.activations.items() if a.shares == leader])
        ms[leader] = estimate(_in_float(layers, readers, precision), rates, backend=backend).ms - whole
    conditions = {"frame": f"{target.frame.width}x{target.frame.height}", "model": found.model, "runs_on": runs_on, "float": precision}
    return Costs(ms, whole, Evidence.ESTIMATED, conditions)


def measured(network: nn.Module, opset: int, tile: int, workdir: Path) -> Costs:
    """Costs in ONNX Runtime on this host, one thread: each tensor's file against the all-int8 one, the medians of paired ratios.

    Args:
        network: prepared, calibrated, on the CPU.
        opset: of the files.
        tile: side of the square image in pixels.
        workdir: for the ONNX files, one at a time.
    """
    import onnx

    workdir.mkdir(parents=True, exist_ok=True)
    parameters, marked, side = collect(network), export_marked(network, opset), tile_side(size_multiple(network), tile)
    base, other = (ModelFile(workdir / f"{name}.onnx", "int8") for name in ("int8", "without"))
    onnx.save(flavoured(marked, parameters, "u8"), str(base.path))
    ms, whole = {}, 0.0
    for leader in _leaders(parameters):
        onnx.save(flavoured(marked, parameters.without(leader), "u8"), str(other.path))
        times = time_files({"int8": base, "without": other}, side, _SECONDS, _COUNT)
        whole = times["int8"].p50
        ms[leader] = whole * (1 / speedup(times["int8"], times["without"]) - 1)
    conditions = {"frame": f"{side}x{side}", "backend": "onnxruntime", "threads": 1, "float": "fp32"}
    return Costs(ms, whole, Evidence.HOST, conditions)


def _leaders(parameters: Parameters) -> list[str]:
    return [name for name, a in parameters.activations.items() if a.shares == name]


def _readers(graph: QdqGraph, tensors: Sequence[str]) -> set[str]:
    dequantized = [n.output[0] for n in graph.of_type("DequantizeLinear") if n.name.removesuffix(".dequantize") in set(tensors)]
    return {node.name or node.output[0] for out in dequantized for node in graph.consumers.get(out, [])}


def _in_float(layers: Sequence[LayerCost], readers: set[str], precision: str) -> list[LayerCost]:
    return [replace(layer, precision=precision) if layer.name in readers else layer for layer in layers]
