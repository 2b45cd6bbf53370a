"""How far a network sees: the halo that tiles need, in input pixels, computed from its ONNX graph; and what in it sees the whole image.

The graph is followed at a concrete size with, for every element of every tensor, the first and the last input pixel that it depends on
(``eval.spans``): no formula per architecture, no measurement. Where an operator draws on the whole image (global pooling, instance
normalisation, attention over space) no halo is enough; it is named, and the halo is that of everything else.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eval.operators import AGGREGATES, NORMALISERS, position_dependent, results_of
from eval.spans import Call, Span, UnknownReach, nowhere, union
from pipeline.errors import StageFailed, ToolchainMissing

if TYPE_CHECKING:
    import onnx

FIRST_SIDE, LAST_SIDE = 256, 4096
"""Sides in pixels of the image that the graph is followed at: doubled until the halo fits a quarter of it."""

SMALL_CONSTANT = 4096
"""Constants of up to so many elements are computed; larger ones are weights, of which only the shape matters."""


@dataclass(frozen=True, slots=True)
class GlobalOperation:
    """A node that draws on the whole image, or may: its name in the graph, its operator, and why."""

    name: str
    op: str
    why: str


@dataclass(frozen=True, slots=True)
class Receptive:
    """What an output pixel depends on.

    halo        furthest input pixel in any of the four directions, along local operations: pixels between it and the output pixel
    reach       the same by direction: up, down, left, right
    whole       operations that depend on the whole image; with none, tiles with the halo give what the whole image gives
    """

    halo: int
    reach: tuple[int, int, int, int]
    whole: tuple[GlobalOperation, ...] = ()

    def counted(self) -> str:
        """The operations that draw on the whole image, in words: ``3 x GlobalAveragePool draw``."""
        count = Counter(o.op for o in self.whole)
        return ", ".join(f"{n} x {op}" for op, n in sorted(count.items())) + (" draws" if len(self.whole) == 1 else " draw")

    def beyond(self, halo: int) -> str:
        """Why tiles that overlap by ``halo`` are not the whole image, as a user reads it; empty when they are."""
        pools = all("Pool" in o.op or o.op.startswith("Reduce") for o in self.whole)
        times = {1: "once", 2: "twice"}.get(len(self.whole), f"{len(self.whole)} times")
        told = [f"the network {'pools over' if pools else 'draws on'} the whole image {times}, here over each tile"] if self.whole else []
        return ", and ".join([*told, *([f"{'' if told else 'the network '}sees {self.halo} pixels far"] if halo < self.halo else [])])

    def __str__(self) -> str:
        text = f"every pixel depends on {self.halo} pixels around it"
        return f"{text}; {self.counted()} on the whole image" if self.whole else text


def receptive_field(path: Path, multiple: int = 1) -> Receptive:
    """Compute the receptive field of a network.

    Args:
        path: ONNX file of free or fixed size, one image in (first input, [1, 3, H, W]) and one out (first output).
        multiple: height and width of the input must be multiples of this.

    Raises:
        StageFailed: the output is no image of the input's size.
        ToolchainMissing: onnx is not installed.

    """
    require_onnx()
    side = -(-FIRST_SIDE // multiple) * multiple
    while True:
        try:
            return _at(path, side, side * 2 > LAST_SIDE)
        except _TooSmallError:
            side *= 2


class _TooSmallError(Exception):
    """The image that the graph was followed at is not much larger than what a pixel depends on."""


def require_onnx() -> None:
    """Raise ToolchainMissing unless onnx and onnxslim are installed."""
    import importlib.util

    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxslim")):
        what = "the halo of tiles is computed from the network's ONNX graph, and onnx is not installed"
        raise ToolchainMissing("tiles", what, 'pip install -e ".[onnx]"')


def _at(path: Path, side: int, last: bool) -> Receptive:
    import onnx

    from models.export import fix_size

    given = [dim.dim_value for dim in onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim[2:]]
    sides = given if all(given) else [side, side]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "fixed.onnx"
        fix_size(path, out, sides[0], sides[1])
        model = onnx.load(str(out))
    try:
        walks = [_Walk(model, axis, length, last).run() for axis, length in zip((2, 3), sides, strict=True)]
    except _TooSmallError:
        if all(given):
            what = f"its input is fixed at {given[1]}x{given[0]}, too small to follow how far it sees"
            raise StageFailed(str(path), what, "give the file of free size that it was made from") from None
        raise
    reach = (*walks[0].reach(), *walks[1].reach())
    found = {o.name: o for walk in walks for o in walk.whole}
    return Receptive(max(reach), reach, tuple(found.values()))


@dataclass
class _Walk:
    """The graph followed along one axis (2: rows, 3: columns) of ``side`` pixels; with ``last``, whatever sees half of it sees all."""

    model: onnx.ModelProto
    axis: int
    side: int
    last: bool
    spans: dict[str, Span] = field(default_factory=dict)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    whole: list[GlobalOperation] = field(default_factory=list)

    def run(self) -> _Walk:
        """Follow every node; raises _TooSmallError."""
        from onnx import numpy_helper

        graph, shape = self.model.graph, [1, 1, 1, 1]
        shape[self.axis] = self.side
        pixels = np.arange(self.side).reshape(shape)
        self.spans[graph.input[0].name] = Span(pixels, pixels)
        for tensor in graph.initializer:
            self.values[tensor.name] = numpy_helper.to_array(tensor)
        self.shapes = {name: value.shape for name, value in self.values.items()} | dict(_shapes(self.model))
        for node in graph.node:
            self._step(node)
        return self

    def reach(self) -> tuple[int, int]:
        """Furthest pixels before and behind an output pixel, over the middle half of the image; raises StageFailed, _TooSmallError."""
        name = self.model.graph.output[0].name
        shape = self.shapes.get(name, ())
        if len(shape) != 4 or shape[self.axis] != self.side:
            raise StageFailed("tiles", f"the network returns {shape}, not an image of its input's size", "use it without tiles")
        span, low, high = self.spans[name].hull((1, 2 if self.axis == 3 else 3)), self.side // 4, self.side - self.side // 4
        at = np.arange(low, high)
        lo, hi = (np.broadcast_to(a.reshape(-1), (self.side,))[low:high] for a in (span.lo, span.hi))
        before, behind = max(0, int((at - lo).max())), max(0, int((hi - at).max()))
        if max(before, behind) >= low:
            raise _TooSmallError
        return before, behind

    def _step(self, node: onnx.NodeProto) -> None:
        if not any(name in self.spans for name in node.input):
            self._constant(node)
            return
        call = self._call(node)
        inputs = [s for s in call.spans if s is not None]
        try:
            found, why = results_of(call), position_dependent(call)
        except UnknownReach as e:
            found, why = [_beside(call, result) for result in call.results], str(e)
        if not why and self._wide(found) and not self._wide(inputs):
            if call.op not in AGGREGATES and not self.last:
                raise _TooSmallError
            why = "it draws on the whole image" if call.op in AGGREGATES else f"it sees further than {self.side // 2} pixels"
            keep = call.op in NORMALISERS
            found = [call.x if keep and result == call.shapes[0] else nowhere(len(result)) for result in call.results]
        if why:
            self.whole.append(GlobalOperation(node.name or node.output[0], call.op, why))
        self.spans |= {name: span for name, span in zip(node.output, found, strict=False) if name}

    def _wide(self, spans: list[Span]) -> bool:
        return any(span.widest > self.side // 2 for span in spans)

    def _call(self, node: onnx.NodeProto) -> Call:
        from onnx import helper

        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        texts = {k: v.decode() if isinstance(v, bytes) else v for k, v in attrs.items()}
        return Call(
            node.op_type,
            texts,
            tuple(self.spans.get(name) for name in node.input),
            tuple(self.values.get(name) for name in node.input),
            tuple(self.shapes.get(name, ()) for name in node.input),
            tuple(self.shapes.get(name, ()) for name in node.output),
        )

    def _constant(self, node: onnx.NodeProto) -> None:
        """A node that depends on no pixel: computed when it is small, for paddings and indices are made so."""
        from onnx.reference import ReferenceEvaluator

        inputs = {name: self.values[name] for name in node.input if name in self.values}
        known = inputs.keys() >= set(node.input) - {""}  # what follows from a large constant is large, or never asked for
        if known and sum(value.size for value in inputs.values()) <= SMALL_CONSTANT:
            results = ReferenceEvaluator(node).run(None, inputs)
            for name, value in zip(node.output, results, strict=False):
                self.values[name] = np.asarray(value)
                self.shapes[name] = self.values[name].shape


def _beside(call: Call, result: tuple[int, ...]) -> Span:
    """What is assumed of a node that is not understood: inputs of the result's shape are passed on in place."""
    same = [s for s, shape in zip(call.spans, call.shapes, strict=True) if s is not None and shape == result]
    return union(same) if same else nowhere(len(result))


def _shapes(model: onnx.ModelProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shape of every tensor of a file of fixed size."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name, tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
