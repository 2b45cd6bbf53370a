"""Tensors as the kernels see them: channels last with a border, integers with a scale; and the frame of a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from compile.tvm.kernels.neon import narrowed
from compile.tvm.kernels.vectors import broadcast, cast, clamp, lanes_of, load, parallel, reinterpret, serial, store, typed

SLACK = 64
"""Elements behind the end of every packed tensor: a load of a whole vector may begin at the last pixel."""

_ROUND = 12582912.0
"""1.5 * 2**23: added to a float within ±2**21 it leaves the nearest integer, ties to even, in the low bits."""


@dataclass(frozen=True, slots=True)
class Number:
    """How a tensor holds its values: value = (stored - zero) * scale. Floats have scale 1 and zero 0.

    The kernels compute in *steps*: stored - zero, as float32.
    """

    dtype: str = "float32"
    scale: float = 1.0
    zero: int = 0

    @property
    def is_float(self) -> bool:
        """Whether it is a float type."""
        return self.dtype.startswith("float")

    @property
    def low(self) -> float:
        """Smallest value in steps."""
        return -float("inf") if self.is_float else (0 if self.dtype == "uint8" else -128) - self.zero

    @property
    def high(self) -> float:
        """Largest value in steps."""
        return float("inf") if self.is_float else (255 if self.dtype == "uint8" else 127) - self.zero

    def steps(self, stored: Any) -> Any:
        """Stored values -> float32 steps."""
        if self.is_float:
            return cast("float32", stored)
        whole = cast("int32", stored)
        return cast("float32", whole - broadcast(self.zero, "int32", lanes_of(stored)) if self.zero else whole)

    def rounded(self, steps: Any) -> Any:
        """float32 steps that are within the bounds, rounded to the grid."""
        from tvm import tirx

        return steps if self.is_float else tirx.nearbyint(steps)

    def stored(self, steps: Any, neon: bool = False) -> Any:
        """float32 steps -> stored values: rounded to nearest, ties to even, and clamped; ``neon`` in the instructions of aarch64."""
        if self.is_float:
            return cast(self.dtype, steps)
        n = lanes_of(steps)
        if neon and n % 4 == 0:
            return narrowed(steps, self.zero, self.dtype)
        shifted = clamp(steps, self.low, self.high) + broadcast(_ROUND + self.zero, "float32", n)
        return cast(self.dtype, reinterpret(typed("int32", n), shifted))


@dataclass(frozen=True, slots=True)
class Place:
    """A packed tensor in memory: [height + 2 pad, width + 2 pad, channels], then ``SLACK``.

    The border holds the zero point. ``channels`` is a multiple of 4 for integers; those beyond the network's own hold anything finite.
    """

    height: int
    width: int
    channels: int
    number: Number
    pad: int = 0

    @property
    def pitch(self) -> int:
        """Elements from one row to the next."""
        return (self.width + 2 * self.pad) * self.channels

    @property
    def size(self) -> int:
        """Elements in all."""
        return (self.height + 2 * self.pad) * self.pitch + SLACK

    def at(self, y: Any, x: Any, c: Any = 0) -> Any:
        """Index of an element; y and x may reach ``pad`` beyond the image."""
        return (y + self.pad) * self.pitch + (x + self.pad) * self.channels + c


Part = tuple[str, int | tuple[int, ...], str]
"""A parameter of a kernel: name, length (or shape), element type."""


def kernel(parts: Sequence[Part], body: Callable[..., None]) -> Any:
    """A TIR function over buffers; the last part is what it writes.

    Args:
        parts: its parameters.
        body: called with the buffers, in order; it emits the code.

    """
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as ib

    with IRBuilder() as builder, ib.prim_func(s_tir=True):
        ib.func_name("kernel")
        ib.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": 8})  # opaque: nothing is fused into it
        given = [ib.arg(name, ib.buffer((shape,) if isinstance(shape, int) else shape, dtype)) for name, shape, dtype in parts]
        with ib.sblock("root"):  # Relax looks for one
            body(*[_flat(buffer, shape, dtype) for buffer, (_, shape, dtype) in zip(given, parts, strict=True)])
    return builder.get().without_attr("global_symbol")  # a module gives it its own name


def _flat(buffer: Any, shape: int | tuple[int, ...], dtype: str) -> Any:
    """A view as one line, which is how kernels index every buffer."""
    from tvm.script.ir_builder import tirx as ib

    return buffer if isinstance(shape, int) else ib.decl_buffer((math.prod(shape),), dtype, data=buffer.data)


def part(name: str, place: Place) -> Part:
    """A packed tensor as a parameter."""
    return name, place.size, place.number.dtype


@contextmanager
def rows(buffer: Any, place: Place) -> Iterator[Any]:
    """A parallel loop over the rows of the tensor that a kernel writes; it also writes the border."""
    with parallel(place.height) as y:
        _border(buffer, place, y)
        yield y


def _border(buffer: Any, place: Place, y: Any) -> None:
    """The border left and right of row ``y``; the first row also writes what is above the image, and the last what is below."""
    from tvm.script.ir_builder import tirx as ib

    if not place.pad:
        return
    side = place.pad * place.channels
    fill(buffer, place.at(y, -place.pad), side, place.number)
    fill(buffer, place.at(y, place.width), side, place.number)
    for edge, row in ((0, -place.pad), (place.height - 1, place.height)):
        with ib.If(y == edge), ib.Then():
            fill(buffer, place.at(row, -place.pad), place.pad * place.pitch, place.number)


def fill(buffer: Any, start: Any, count: int, number: Number) -> None:
    """Write the zero point ``count`` times."""
    for lanes, first, times in pieces(count, 64 if not number.is_float else 16):
        value = broadcast(float(number.zero) if number.is_float else number.zero, number.dtype, lanes)
        with serial(times) as i:
            store(buffer, start + first + i * lanes, value)


def pieces(count: int, lanes: int) -> Iterator[tuple[int, int, int]]:
    """Cut ``count`` values into vectors.

    Yields:
        lanes of the vectors, index of the first value, number of vectors: full ones, then one for what is left.

    """
    if count // lanes:
        yield lanes, 0, count // lanes
    if count % lanes:
        yield count % lanes, count - count % lanes, 1


def read(buffer: Any, start: Any, lanes: int, number: Number) -> Any:
    """Steps of neighbouring elements."""
    return number.steps(load(buffer, start, lanes))


def write(buffer: Any, start: Any, steps: Any, number: Number, neon: bool = False) -> None:
    """Write steps."""
    store(buffer, start, number.stored(steps, neon))
