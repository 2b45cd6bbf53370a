"""Does a network suit a target? What the target file says pays there, held against the exported graph, before anything is trained.

It looks at ONNX, so it holds for every architecture, the user's own included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eval.cost import onnx_layers, shapes_of, sized_graph
from pipeline.contract import Problem
from pipeline.target import Target
from targets.estimator import LayerCost, estimate

if TYPE_CHECKING:
    import onnx

ACTIVATIONS = {"Relu": "relu", "Clip": "relu6", "HardSwish": "hardswish", "LeakyRelu": "leakyrelu", "PRelu": "prelu", "Sigmoid": "sigmoid"}
ACTIVATIONS |= {"Elu": "elu", "Gelu": "gelu", "Erf": "gelu", "Mish": "mish", "Tanh": "tanh", "Softplus": "softplus"}
MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
POOLINGS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean")
SLOW_SHARE = 0.1
"""Share of the estimated time from which depthwise layers are worth a warning on a GPU."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """An exported network at the target's frame: nodes, shape by tensor, layers as the estimator sees them."""

    nodes: Sequence[onnx.NodeProto]
    shapes: Mapping[str, tuple[int, ...]]
    layers: Sequence[LayerCost]

    def spatial(self, node: onnx.NodeProto) -> bool:
        """Whether a node writes an image rather than one value per channel (as inside squeeze-and-excite) or a constant."""
        shape = self.shapes.get(node.output[0], ())
        return len(shape) == 4 and shape[2] * shape[3] > 1


def misfits(path: Path, target: Target, where: str, multiple: int = 1) -> list[Problem]:
    """What in a network fights the target.

    Args:
        path: float ONNX file of free size.
        target: the device.
        where: what a problem is said of, e.g. "pipeline.yaml: stages.distill".
        multiple: what the sides of the network's input must be multiples of.

    Raises:
        StageFailed: the shapes cannot be inferred.

    """
    height, width = (-(-side // multiple) * multiple for side in (target.frame.height, target.frame.width))
    graph = _read(path, height, width)
    rules = (_operators, _activations, _upsampling, _blocks, _widths, _poolings)
    return [Problem(where, what) for rule in rules for what in rule(graph, target)]


def _read(path: Path, height: int, width: int) -> _Graph:
    graph = sized_graph(path, height, width)
    return _Graph(list(graph.node), shapes_of(graph), onnx_layers(path, height, width))


def _operators(graph: _Graph, target: Target) -> Iterator[str]:
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in graph.nodes if n.domain not in ("", "ai.onnx")})
    if foreign:
        yield f"uses operators that no standard runtime has: {', '.join(foreign)}"


def _activations(graph: _Graph, target: Target) -> Iterator[str]:
    found = Counter(ACTIVATIONS[n.op_type] for n in graph.nodes if n.op_type in ACTIVATIONS and graph.spatial(n))
    for name, count in found.items():
        if name not in target.pays.activation:
            pays = " or ".join(target.pays.activation)
            yield f"{count} of its {found.total()} activations are {name}, which does not pay on {target.name}; {pays} does"


def _upsampling(graph: _Graph, target: Target) -> Iterator[str]:
    kinds = Counter(_kind(n) for n in graph.nodes if n.op_type in ("Resize", "ConvTranspose") and graph.spatial(n))
    for name, count in kinds.items():
        if name not in target.pays.upsample:
            yield f"up-samples {count} times by {name}, which does not pay on {target.name}; {' or '.join(target.pays.upsample)} does"


def _kind(node: onnx.NodeProto) -> str:
    mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
    return "deconv" if node.op_type == "ConvTranspose" else MODES.get(mode, mode)


def _blocks(graph: _Graph, target: Target) -> Iterator[str]:
    depthwise = [layer for layer in graph.layers if layer.depthwise]
    if not depthwise:
        return
    if "inverted_residual" not in target.pays.blocks:
        yield f"has {len(depthwise)} depthwise convolutions, which do not pay on {target.name}; {' or '.join(target.pays.blocks)} blocks do"
    if not any(b.runs_on == "gpu" and "int8" in b.precisions for b in target.backends):
        return
    macs = sum(x.macs for x in depthwise) / max(1, sum(x.macs for x in graph.layers))
    share = _time_share(graph.layers, target)
    if share > SLOW_SHARE:
        yield (
            f"its {len(depthwise)} depthwise convolutions are {macs:.0%} of the multiplications but {share:.0%} of the estimated time on "
            f"{target.name}'s GPU, where int8 gains them nothing; fused blocks have none"
        )


def _time_share(layers: Sequence[LayerCost], target: Target) -> float:
    """Share of the estimated time on the GPU, every convolution in int8, that depthwise layers take."""
    rates = target.rates["gpu"]
    rest = "fp16" if "fp16" in rates.macs else "fp32"
    typed = [replace(x, precision="int8" if x.macs else rest) for x in layers]
    times = estimate(typed, rates)
    slow = {x.name for x in layers if x.depthwise}
    return sum(t.ms for t in times.layers if t.name in slow) / times.ms


def _widths(graph: _Graph, target: Target) -> Iterator[str]:
    convs = [n for n in graph.nodes if n.op_type in ("Conv", "ConvTranspose") and graph.spatial(n)]
    widths = Counter(graph.shapes[n.output[0]][1] for n in convs[:-1])  # the last one's channels are the image's
    odd = {w: c for w, c in sorted(widths.items()) if w % target.channel_multiple}
    if odd:
        listed = ", ".join(f"{w} ({c})" for w, c in odd.items())
        yield (
            f"{sum(odd.values())} of its {widths.total()} convolutions have a width that is no multiple of {target.channel_multiple}, "
            f"to which {target.name} pads them: {listed}"
        )


def _poolings(graph: _Graph, target: Target) -> Iterator[str]:
    found = [n for n in graph.nodes if n.op_type in POOLINGS and not graph.spatial(n) and len(graph.shapes.get(n.output[0], ())) == 4]
    if found and any(b.runs_on == "cpu" for b in target.backends):
        yield (
            f"pools {len(found)} times over the whole image (squeeze-and-excite), and artifacts for {target.name}'s CPU see a tile "
            "at a time: a tile's mean is not the image's; leave the pools out (a student's se_from past its last scale), "
            "or give the compile stage a larger 'tile'"
        )
