"""What a network costs: parameters, multiply-accumulates, bytes, and its layers as the estimator reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.contract import Better, Evidence, Measurement
from pipeline.errors import StageFailed
from targets.estimator import LayerCost

if TYPE_CHECKING:
    import onnx
    import torch

    from pipeline.target import Rates, Target

MACS_SIDE = 256
"""MACs are quoted at 3x256x256, as the literature on deblurring does."""

_FREE = {"QuantizeLinear", "DequantizeLinear", "Constant", "Identity", "Shape", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Gather"}
_DENSE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def count_macs(module: torch.nn.Module, height: int = MACS_SIDE, width: int = MACS_SIDE) -> int:
    """Multiply-accumulates of one forward pass at 3 x height x width: those of convolutions, transposed convolutions and linear layers."""
    import torch
    from torch import nn

    total = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        if isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0].numel() // inputs[0].shape[1] * weight.numel()
        elif isinstance(layer, nn.Linear):
            total += inputs[0].numel() // inputs[0].shape[-1] * weight.numel()
        else:
            total += output.numel() // output.shape[1] * weight.numel()

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    handles = [m.register_forward_hook(hook) for m in layers]
    training = module.training
    try:
        module.eval()
        with torch.inference_mode():
            device = next(module.parameters()).device
            module(torch.zeros(1, 3, height, width, device=device))
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return total


def count_params(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def cost_measurements(module: torch.nn.Module, path: Path | None = None) -> list[Measurement]:
    """Params (M), macs (G, at 3x256x256) and, when ``path`` is given, size (MB, 10**6 bytes) of the file or folder."""
    frame = {"frame": f"{MACS_SIDE}x{MACS_SIDE}"}
    rows = [
        Measurement("params", count_params(module) / 1e6, "M", Better.LOWER, 1, Evidence.HOST),
        Measurement("macs", count_macs(module) / 1e9, "G", Better.LOWER, 1, Evidence.HOST, frame),
    ]
    return rows if path is None else [*rows, size_measurement(path)]


def size_measurement(path: Path) -> Measurement:
    """Size in MB (10**6 bytes) of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    total = sum(p.stat().st_size for p in files)
    return Measurement("size", total / 1e6, "MB", Better.LOWER, 1, Evidence.HOST)


def rates_of(target: Target, runs_on: Literal["cpu", "gpu"], threads: int) -> Rates:
    """A target's rates for an artifact: all of the GPU's; of the CPU the arithmetic of as many cores as there are threads.

    The memory is one core's as much as all cores'. What was calibrated with another number of threads says nothing of this one.

    Raises:
        StageFailed: the target states no rates for that processor.

    """
    rates = target.rates.get(runs_on)
    if rates is None:
        raise StageFailed(f"target {target.name}", f"states no rates for its {runs_on}", "add them to the target file")
    if runs_on == "gpu":
        return rates
    share = min(1.0, threads / target.cpu.cores)
    calibrations = tuple(c for c in rates.calibrations if c.threads == threads)
    return rates.model_copy(update={"macs": {k: v * share for k, v in rates.macs.items()}, "calibrations": calibrations})


def onnx_layers(path: Path, height: int, width: int) -> list[LayerCost]:
    """The layers of an ONNX file at one image size, in graph order.

    A convolution whose input and weight both come from a DequantizeLinear counts as int8; everything else as the file's float type.
    Nodes that move no data at run time (Q/DQ, shape arithmetic, constants) are left out.

    Args:
        path: float or Q/DQ ONNX file with one image input [1, 3, H, W].
        height: rows in pixels.
        width: columns in pixels.

    Raises:
        StageFailed: the file's shapes cannot be inferred at that size.

    """
    graph = sized_graph(path, height, width)
    return list(_layers(graph, shapes_of(graph), path))


def sized_graph(path: Path, height: int, width: int) -> onnx.GraphProto:
    """The graph of an ONNX file with one image input, at one image size, with the shapes that can be inferred."""
    import onnx

    model = onnx.load(path)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 3, height, width), strict=True):
        dim.Clear()
        dim.dim_value = size
    for out in model.graph.output:
        for dim in out.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True).graph


def shapes_of(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shape by tensor, as far as the graph says it; 0 for a side that is not known."""
    values = (*graph.input, *graph.value_info, *graph.output)
    return {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}


def _layers(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], path: Path) -> Iterator[LayerCost]:
    weights = {i.name: tuple(i.dims) for i in graph.initializer}
    producers = {o: n for n in graph.node for o in n.output}
    for node in graph.node:
        if node.op_type in _FREE:
            continue
        out = shapes.get(node.output[0], ())
        if not out or 0 in out:
            raise StageFailed(
                str(path), f"the shape of '{node.output[0]}' ({node.op_type}) cannot be inferred", "export with constant sizes"
            )
        yield _layer(node, out, shapes, weights, producers)


def _layer(node: Any, out: tuple[int, ...], shapes: dict[str, Any], weights: dict[str, Any], producers: dict[str, Any]) -> LayerCost:
    kernel = _weight_shape(node, weights, producers) if node.op_type in _DENSE else ()
    reads = sum(_size(shapes[n]) for n in node.input if n in shapes and n not in weights)
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return LayerCost(
        name=node.name or node.output[0],
        op=node.op_type,
        depthwise=groups > 1 and groups == (kernel[0] if kernel else 0),
        macs=_macs(node, out, shapes, kernel),
        read_elements=reads,
        write_elements=_size(out),
        weight_elements=_size(kernel) if kernel else 0,
        precision="int8" if _is_quantized(node, producers) else "fp32",
    )


def _macs(node: Any, out: tuple[int, ...], shapes: dict[str, Any], kernel: tuple[int, ...]) -> int:
    if node.op_type == "ConvTranspose":
        return _size(shapes[node.input[0]]) // kernel[0] * _size(kernel)
    if node.op_type == "Conv":
        return _size(out) * _size(kernel[1:])
    if node.op_type not in _DENSE:
        return 0
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return _size(out) * shapes[node.input[0]][-2 if turned else -1]  # a product of matrices, of weights or of features


def _weight_shape(node: Any, weights: dict[str, Any], producers: dict[str, Any]) -> tuple[int, ...]:
    name = node.input[1]
    while name not in weights and name in producers and producers[name].op_type in _FREE and producers[name].input:
        name = producers[name].input[0]
    return tuple(weights.get(name, ()))


def _is_quantized(node: Any, producers: dict[str, Any]) -> bool:
    feeds = [producers[n].op_type for n in node.input[:2] if n in producers]
    if node.op_type in _DENSE:
        return feeds == ["DequantizeLinear", "DequantizeLinear"]
    return bool(feeds) and all(f == "DequantizeLinear" for f in feeds)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape else 0
