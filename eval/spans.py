"""Which input pixels each element of a tensor depends on, along one axis, operator by operator: the arithmetic behind ``eval.receptive``.

A span is a pair of integer arrays (first and last pixel) that broadcasts to the tensor's shape, so that an axis along which nothing
differs costs one entry. Rules work on positions, not on formulas: strides, paddings, crops and phases of a resize are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOWHERE = 1 << 30
"""First pixel of what depends on none; its last pixel is the negative."""

MOST = 1 << 25
"""Elements of the largest span that is followed: every pixel against every other would be far more."""

Ints = NDArray[np.int64]


class UnknownReach(Exception):  # noqa: N818 - what is known is the name
    """An operator, or a form of it, of which it is not known where its values come from; the text says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """First and last input pixel that each element depends on: int [..] of equal shape, broadcastable to the tensor."""

    lo: Ints
    hi: Ints

    @property
    def widest(self) -> int:
        """Pixels from the first to the last, of the element that sees most; 0 when none sees any."""
        return max(0, int((self.hi - self.lo).max()) + 1)

    def each(self, change: Any) -> Span:
        """The span with both arrays rearranged by one function."""
        return Span(change(self.lo), change(self.hi))

    def hull(self, axes: tuple[int, ...]) -> Span:
        """What all elements along some axes depend on together; the axes stay, of length 1."""
        return Span(self.lo.min(axis=axes, keepdims=True), self.hi.max(axis=axes, keepdims=True))

    def compact(self) -> Span:
        """The same with every axis along which nothing differs reduced to length 1."""
        out = self
        for axis in range(self.lo.ndim):
            first = out.each(lambda a, axis=axis: a.take([0], axis=axis))
            if (out.lo == first.lo).all() and (out.hi == first.hi).all():
                out = first
        return out

    def pick(self, axis: int, index: Ints) -> Span:
        """Elements along an axis by index; -1 is an element that depends on nothing."""
        if self.lo.shape[axis] == 1:
            return self
        shape = [1] * self.lo.ndim
        shape[axis] = len(index)
        there = (index >= 0).reshape(shape)
        safe = np.maximum(index, 0)
        return Span(np.where(there, self.lo.take(safe, axis=axis), NOWHERE), np.where(there, self.hi.take(safe, axis=axis), -NOWHERE))

    def gather(self, axis: int, taps: Ints) -> Span:
        """Element i of the result depends on the elements ``taps[i]`` along an axis; taps: int [length, count], -1 for none."""
        return union([self.pick(axis, taps[:, k]) for k in range(taps.shape[1])])


def nowhere(ndim: int) -> Span:
    """Of a tensor that depends on no pixel."""
    return Span(np.full([1] * ndim, NOWHERE), np.full([1] * ndim, -NOWHERE))


def union(spans: Sequence[Span]) -> Span:
    """What an element-wise operation depends on; shapes broadcast. Raises UnknownReach where that is more than can be followed."""
    if np.prod(np.broadcast_shapes(*(span.lo.shape for span in spans))) > MOST:
        raise UnknownReach("it relates more positions than can be followed one by one")
    lo, hi = spans[0].lo, spans[0].hi
    for other in spans[1:]:
        lo, hi = np.minimum(lo, other.lo), np.maximum(hi, other.hi)
    return Span(lo, hi)


@dataclass(frozen=True, slots=True)
class Call:
    """One node with what is known of its inputs.

    op       operator
    attrs    attributes
    spans    per input: its span; None for a constant or an input left out
    values   per input: its value when constant, else None
    shapes   per input: its shape
    results  per output: its shape
    """

    op: str
    attrs: Mapping[str, Any]
    spans: tuple[Span | None, ...]
    values: tuple[NDArray[Any] | None, ...]
    shapes: tuple[tuple[int, ...], ...]
    results: tuple[tuple[int, ...], ...]

    @property
    def x(self) -> Span:
        """Span of the first input."""
        return self.spans[0] or nowhere(len(self.shapes[0]))

    def constant(self, index: int, attribute: str = "") -> Ints | None:
        """An integer parameter given as input or attribute; None when left out. Raises UnknownReach when it is computed."""
        if attribute in self.attrs:
            return np.atleast_1d(np.asarray(self.attrs[attribute], np.int64))
        if index >= len(self.shapes) or (self.values[index] is None and self.spans[index] is None and not self.shapes[index]):
            return None
        value = self.values[index]
        if value is None:
            raise UnknownReach(f"its input {index} is computed from the image")
        return np.atleast_1d(np.asarray(value, np.int64))


def taps_of(call: Call, axis: int, kernel: int) -> Ints:
    """Positions [length, kernel] that a convolution or pooling reads along a spatial axis (0 is the first); -1 outside the tensor."""
    spatial = len(call.shapes[0]) - 2
    stride, dilation = (int(call.attrs.get(name, [1] * spatial)[axis]) for name in ("strides", "dilations"))
    side, length = call.shapes[0][2 + axis], call.results[0][2 + axis]
    missing = max(0, (length - 1) * stride + (kernel - 1) * dilation + 1 - side)
    auto = str(call.attrs.get("auto_pad", "NOTSET"))
    starts = {"SAME_UPPER": missing // 2, "SAME_LOWER": missing - missing // 2, "VALID": 0}
    begin = starts.get(auto, int(call.attrs.get("pads", [0] * 2 * spatial)[axis]))
    found = np.arange(length)[:, None] * stride - begin + np.arange(kernel) * dilation
    return np.where((found >= 0) & (found < side), found, -1)


def over_space(call: Call, span: Span, kernel: Sequence[int]) -> Span:
    """Apply a sliding window of that size to the spatial axes."""
    for axis, size in enumerate(kernel):
        if span.lo.shape[2 + axis] > 1:
            span = span.gather(2 + axis, taps_of(call, axis, int(size)))
    return span


def over_channels(span: Span, groups: int, width: int) -> Span:
    """Hull over the input channels of each group, for ``width`` output channels."""
    if span.lo.shape[1] == 1:
        return span

    def grouped(a: Ints) -> Ints:
        return a.reshape(a.shape[0], groups, -1, *a.shape[2:])

    hull = span.each(grouped).hull((2,))
    return hull.each(lambda a: np.repeat(a[:, :, 0], width // groups, axis=1)).compact()


def deconvolved(call: Call, span: Span, kernel: Sequence[int]) -> Span:
    """Apply a transposed convolution to the spatial axes."""
    spatial = len(kernel)
    for axis, size in enumerate(kernel):
        if span.lo.shape[2 + axis] == 1:
            continue
        stride, dilation = (int(call.attrs.get(name, [1] * spatial)[axis]) for name in ("strides", "dilations"))
        if str(call.attrs.get("auto_pad", "NOTSET")) not in ("NOTSET", "VALID") or "output_shape" in call.attrs:
            raise UnknownReach("its padding follows from its output's size")
        begin = int(call.attrs.get("pads", [0] * 2 * spatial)[axis])
        source = np.arange(call.results[0][2 + axis])[:, None] + begin - np.arange(int(size)) * dilation
        whole, rest = np.divmod(source, stride)
        span = span.gather(2 + axis, np.where((rest == 0) & (whole >= 0) & (whole < call.shapes[0][2 + axis]), whole, -1))
    return span


def padded(index_of: str, begin: int, side: int, length: int) -> Ints:
    """Position read by each element of a padded axis."""
    index = np.arange(length) - begin
    if index_of == "constant":
        return np.where((index >= 0) & (index < side), index, -1)
    if index_of == "edge":
        return np.clip(index, 0, side - 1)
    if index_of == "wrap":
        return index % side
    period = max(1, 2 * (side - 1))
    folded = index % period
    return np.minimum(folded, period - folded)


def resize_taps(mode: str, coordinates: str, nearest: str, side: int, length: int, scale: float) -> Ints:
    """Positions [length, taps] that a resize reads along one axis of ``side`` elements; taps of no weight are left out (-1)."""
    out = np.arange(length, dtype=np.float64)
    if coordinates in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        at = (out + 0.5) / scale - 0.5
    elif coordinates == "asymmetric":
        at = out / scale
    else:
        raise UnknownReach(f"{coordinates}: where a pixel comes from depends on the image's size")
    near = np.rint(at)
    at = np.where(np.abs(at - near) < 1e-6, near, at)
    if mode == "nearest":
        rounding = {"floor": np.floor, "ceil": np.ceil, "round_prefer_ceil": lambda a: np.floor(a + 0.5)}
        taps = rounding.get(nearest, lambda a: np.ceil(a - 0.5))(at)[:, None]
    else:
        reach = {"linear": (0, 1), "cubic": (-1, 0, 1, 2)}[mode]
        base = np.floor(at)[:, None] + np.array(reach)
        taps = np.where((at == np.floor(at))[:, None] & (np.array(reach) != 0), -NOWHERE, base)
    return np.where(taps == -NOWHERE, -1, np.clip(taps, 0, side - 1)).astype(np.int64)


def reshaped(span: Span, shape: Sequence[int], result: Sequence[int], order: Sequence[int] | None = None) -> Span:
    """The span after a reshape of the tensor from ``shape`` to ``result``, between them optionally a transposition of ``order``'s axes.

    ``shape`` is the tensor's, cut up as the transposition needs it.
    """

    def moved(a: Ints) -> Ints:
        full = np.broadcast_to(a, shape) if a.ndim == len(shape) else a.reshape(shape)
        return (full.transpose(order) if order is not None else full).reshape(result)

    return span.each(moved).compact()
