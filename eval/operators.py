"""ONNX operators as rules on spans: what each output depends on, given what the inputs depend on (``eval.spans``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from eval.spans import (
    Call,
    Ints,
    Span,
    UnknownReach,
    deconvolved,
    nowhere,
    over_channels,
    over_space,
    padded,
    reshaped,
    resize_taps,
    union,
)

Rule = Callable[[Call], list[Span]]

# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "Acos", "Add", "And", "Asin", "Atan", "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos",
    "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod",
    "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
))
# fmt: on
"""Operators each of whose results depends on the inputs at its own position alone."""

NORMALISERS = frozenset(("InstanceNormalization", "LayerNormalization", "GroupNormalization", "Softmax", "LogSoftmax", "Hardmax"))
"""Operators whose result depends on the input at its own position, and on statistics over more."""

REDUCTIONS = tuple(f"Reduce{name}" for name in ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"))

GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")

AGGREGATES = NORMALISERS | {*REDUCTIONS, *GLOBAL_POOLS, "MatMul", "Gemm", "CumSum", "ArgMax", "ArgMin", "TopK"}
"""Operators that may draw on a whole axis."""


def results_of(call: Call) -> list[Span]:
    """Span of every output; raises UnknownReach where it is not known."""
    if call.op in ELEMENTWISE:
        found = [s for s in call.spans if s is not None]
        return [union(found)] * len(call.results)
    if call.op not in RULES:
        raise UnknownReach("it is not known where its values come from")
    return [span.compact() for span in RULES[call.op](call)]


def position_dependent(call: Call) -> str:
    """Why an operator with a known span still computes otherwise in a tile than in the whole image; empty where it does not."""
    if call.op == "Resize" and call.attrs.get("coordinate_transformation_mode") == "align_corners":
        return "its corners are aligned: the weights depend on the image's size"
    return ""


def _conv(call: Call) -> list[Span]:
    kernel = call.shapes[1]
    return [over_space(call, over_channels(call.x, int(call.attrs.get("group", 1)), kernel[0]), kernel[2:])]


def _deconv(call: Call) -> list[Span]:
    groups, kernel = int(call.attrs.get("group", 1)), call.shapes[1]
    return [deconvolved(call, over_channels(call.x, groups, kernel[1] * groups), kernel[2:])]


def _pool(call: Call) -> list[Span]:
    return [over_space(call, call.x, call.attrs["kernel_shape"])] * len(call.results)


def _global_pool(call: Call) -> list[Span]:
    return [call.x.hull(tuple(range(2, len(call.shapes[0]))))]


def _reduce(call: Call) -> list[Span]:
    ndim, given = len(call.shapes[0]), call.constant(1, "axes")
    if given is None and call.attrs.get("noop_with_empty_axes"):
        return [call.x]
    axes = tuple(range(ndim)) if given is None else tuple(int(a) % ndim for a in given)
    hull = call.x.hull(axes)
    return [hull if call.attrs.get("keepdims", 1) else hull.each(lambda a: a.squeeze(axes))]


def _arg(call: Call) -> list[Span]:
    axis = int(call.attrs.get("axis", 0)) % len(call.shapes[0])
    hull = call.x.hull((axis,))
    return [hull if call.attrs.get("keepdims", 1) else hull.each(lambda a: a.squeeze(axis))]


def _softmax(call: Call) -> list[Span]:
    return [call.x.hull((int(call.attrs.get("axis", -1)) % len(call.shapes[0]),))]


def _cumulated(call: Call) -> list[Span]:
    axis = call.constant(1)
    return [call.x.hull((int(axis[0]) % len(call.shapes[0]),))] if axis is not None else [call.x]


def _top(call: Call) -> list[Span]:
    return [call.x.hull((int(call.attrs.get("axis", -1)) % len(call.shapes[0]),))] * len(call.results)


def _layer_norm(call: Call) -> list[Span]:
    ndim = len(call.shapes[0])
    return [call.x.hull(tuple(range(int(call.attrs.get("axis", -1)) % ndim, ndim)))] * len(call.results)


def _group_norm(call: Call) -> list[Span]:
    return [call.x.hull(tuple(range(1, len(call.shapes[0]))))]


def _matmul(call: Call) -> list[Span]:
    parts, ndim = [], len(call.results[0])
    for span, shape, axis in zip(call.spans, call.shapes, (-1, -2), strict=False):
        if span is not None:
            if len(shape) < 2:
                raise UnknownReach("it multiplies by a vector")
            parts.append(span.hull((len(shape) + axis,)).each(lambda a: a.reshape((1,) * (ndim - a.ndim) + a.shape)))
    return [union(parts)]


def _gemm(call: Call) -> list[Span]:
    parts = []
    for span, flag, axis in zip(call.spans, ("transA", "transB"), (1, 0), strict=False):
        if span is not None:
            turned = span.each(np.transpose) if call.attrs.get(flag, 0) else span
            parts.append(turned.hull((axis,)))
    return [union(parts + [s for s in call.spans[2:] if s is not None])]


def _resize(call: Call) -> list[Span]:
    span, attrs = call.x, call.attrs
    if attrs.get("antialias", 0) or attrs.get("axes") is not None:
        raise UnknownReach("this form of it is not known here")
    scales = call.values[2] if len(call.values) > 2 else None
    for axis, (side, length) in enumerate(zip(call.shapes[0], call.results[0], strict=True)):
        if side == length:
            continue
        scale = float(scales[axis]) if scales is not None and scales.size else length / side
        mode, coordinates = str(attrs.get("mode", "nearest")), str(attrs.get("coordinate_transformation_mode", "half_pixel"))
        if coordinates == "align_corners":
            coordinates, scale = "asymmetric", (length - 1) / max(1, side - 1)
        nearest = str(attrs.get("nearest_mode", "round_prefer_floor"))
        span = span.gather(axis, resize_taps(mode, coordinates, nearest, side, length, scale)) if span.lo.shape[axis] > 1 else span
    return [span]


def _depth_to_space(call: Call) -> list[Span]:
    (n, c, h, w), b = call.shapes[0], int(call.attrs["blocksize"])
    if str(call.attrs.get("mode", "DCR")) == "CRD":
        cut, order = (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)
    else:
        cut, order = (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    return [_rearranged(call, cut, order)]


def _space_to_depth(call: Call) -> list[Span]:
    (n, c, h, w), b = call.shapes[0], int(call.attrs["blocksize"])
    return [_rearranged(call, (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4))]


def _rearranged(call: Call, cut: Sequence[int], order: Sequence[int]) -> Span:
    full = call.x.each(lambda a: np.broadcast_to(a, call.shapes[0]))
    return reshaped(full, cut, call.results[0], order)


def _reshape(call: Call) -> list[Span]:
    full = call.x.each(lambda a: np.broadcast_to(a, call.shapes[0]))
    return [full.each(lambda a: a.reshape(call.results[0]))]


def _transpose(call: Call) -> list[Span]:
    order = call.attrs.get("perm", tuple(reversed(range(len(call.shapes[0])))))
    return [call.x.each(lambda a: a.transpose(order))]


def _expand(call: Call) -> list[Span]:
    return [call.x.each(lambda a: a.reshape((1,) * (len(call.results[0]) - a.ndim) + a.shape))]


def _tile(call: Call) -> list[Span]:
    span = call.x
    for axis, (side, length) in enumerate(zip(call.shapes[0], call.results[0], strict=True)):
        span = span.pick(axis, np.arange(length) % side)
    return [span]


def _slice(call: Call) -> list[Span]:
    starts, ends, axes, steps = (call.constant(i, name) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1))
    if starts is None or ends is None:
        raise UnknownReach("it says not where it cuts")
    span, ndim = call.x, len(call.shapes[0])
    for k in range(len(starts)):
        axis = int(axes[k]) % ndim if axes is not None else k
        step = int(steps[k]) if steps is not None else 1
        span = span.pick(axis, _range(int(starts[k]), int(ends[k]), step, call.shapes[0][axis]))
    return [span]


def _range(start: int, end: int, step: int, side: int) -> Ints:
    stop = None if step < 0 and end < -side else end
    return np.arange(side)[start:stop:step]


def _gather(call: Call) -> list[Span]:
    index = call.constant(1)
    axis, ndim = int(call.attrs.get("axis", 0)), len(call.shapes[0])
    axis %= ndim
    if index is None or len(call.shapes[1]) > 1:
        raise UnknownReach("its index has several axes")
    span = call.x.pick(axis, index % call.shapes[0][axis])
    return [span if call.shapes[1] else span.each(lambda a: a.take(0, axis=axis))]


def _pad(call: Call) -> list[Span]:
    pads, mode, ndim = call.constant(1, "pads"), str(call.attrs.get("mode", "constant")), len(call.shapes[0])
    if pads is None:
        raise UnknownReach("it says not how much")
    given = call.constant(3)
    axes = [int(a) % ndim for a in given] if given is not None else list(range(ndim))
    span = call.x
    for k, axis in enumerate(axes):
        span = span.pick(axis, padded(mode, int(pads[k]), call.shapes[0][axis], call.results[0][axis]))
    return [span]


def _concat(call: Call) -> list[Span]:
    ndim = len(call.results[0])
    axis = int(call.attrs["axis"]) % ndim
    parts = [s or nowhere(ndim) for s in call.spans]
    other = [max(p.lo.shape[a] for p in parts) for a in range(ndim)]

    def joined(arrays: Sequence[Ints]) -> Ints:
        sides = [[shape[a] if a == axis else other[a] for a in range(ndim)] for shape in call.shapes]
        return np.concatenate([np.broadcast_to(a, side) for a, side in zip(arrays, sides, strict=True)], axis=axis)

    return [Span(joined([p.lo for p in parts]), joined([p.hi for p in parts]))]


def _split(call: Call) -> list[Span]:
    axis, out, start = int(call.attrs.get("axis", 0)) % len(call.shapes[0]), [], 0
    for shape in call.results:
        out.append(call.x.pick(axis, np.arange(start, start + shape[axis])))
        start += shape[axis]
    return out


RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _deconv,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys((*GLOBAL_POOLS, "InstanceNormalization"), _global_pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    "CumSum": _cumulated,
    "TopK": _top,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Resize": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Concat": _concat,
    "Split": _split,
}
