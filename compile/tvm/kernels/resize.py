"""Doubling height and width, nearest or bilinear, with what is added to the result fused in.

With half-pixel centres each output is 9/16, 3/16, 3/16 and 1/16 of its four nearest pixels, the border repeated (ONNX ``Resize``, mode
linear). In integers that is exact up to one rounding: (9 a + 3 b + 3 c + d) / 16 fits 16 bits, and an even zero
point passes through.
"""

from __future__ import annotations

from typing import Any, Literal

from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Place, kernel, part, pieces, rows
from compile.tvm.kernels.vectors import broadcast, cast, lanes_of, let, load, serial, store

Mode = Literal["linear", "nearest"]


def build_resize(source: Place, mode: Mode, finish: Finish) -> Any:
    """(source, added tensor if any, out): twice as high and wide."""

    def body(x: Any, *rest: Any) -> None:
        writer = _Writer(source, finish, x, rest)
        plain = finish.other is None and finish.grid == finish.out.number and source.number == finish.grid
        with rows(rest[-1], finish.out) as y:
            for lanes, first, times in pieces(source.channels, 32 if plain else 16):
                with serial(times) as i, serial(source.width) as column:
                    writer.pair(mode, y, column, first + i * lanes, lanes, plain)

    return kernel([part("source", source), *finish.parts()], body)


class _Writer:
    """Emits the two output pixels of one input column."""

    def __init__(self, source: Place, finish: Finish, buffer: Any, rest: tuple[Any, ...]) -> None:
        self.source, self.finish, self.buffer, self.out = source, finish, buffer, rest[-1]
        self.other = rest[0] if finish.other else None

    def pair(self, mode: Mode, y: Any, x: Any, c: Any, lanes: int, plain: bool) -> None:
        values = self._linear(y, x, c, lanes) if mode == "linear" else self._nearest(y, x, c, lanes)
        out = self.finish.out
        for i, value in enumerate(values):
            at = out.at(y, 2 * x + i, c)
            if plain:
                store(self.out, at, cast(out.number.dtype, value))
            else:
                self.finish.write(self.out, at, [self._sum(self._in_steps(value), y, 2 * x + i, c)], lanes)

    def _sum(self, steps: Any, y: Any, x: Any, c: Any) -> Any:
        """With what is added; what lies on the grid already, as integers between their neighbours do, is neither rounded nor clamped."""
        finish, number = self.finish, self.source.number
        combine = finish.plus if number == finish.grid and not number.is_float else finish.steps
        return combine(steps, self.other, y, x, c)

    def _in_steps(self, value: Any) -> Any:
        """Stored values of the source's number -> steps of the grid."""
        number, grid = self.source.number, self.finish.grid
        if number.is_float:
            return cast("float32", value)
        zero = broadcast(number.zero, "int32", lanes_of(value))
        steps = cast("float32", cast("int32", value) - zero)
        return steps if number.scale == grid.scale else steps * broadcast(number.scale / grid.scale, "float32", lanes_of(value))

    def _nearest(self, y: Any, x: Any, c: Any, lanes: int) -> list[Any]:
        value = let(load(self.buffer, self.source.at(y // 2, x, c), lanes))
        return [value, value]

    def _linear(self, y: Any, x: Any, c: Any, lanes: int) -> list[Any]:
        from tvm import tirx

        near, last = y // 2, self.source.height - 1
        far = tirx.Max(tirx.Min(near + y % 2 * 2 - 1, last), 0)
        left, right = tirx.Max(x - 1, 0), tirx.Min(x + 1, self.source.width - 1)
        before, here, after = (self._line(near, far, column, c, lanes) for column in (left, x, right))
        return [self._mix(here, side) for side in (before, after)]

    def _line(self, near: Any, far: Any, x: Any, c: Any, lanes: int) -> Any:
        """Three parts of the nearer row and one of the other."""
        kind = "float32" if self.source.number.is_float else "int16"
        a, b = (cast(kind, load(self.buffer, self.source.at(row, x, c), lanes)) for row in (near, far))
        return let(a * _constant(3, kind, lanes) + b)

    def _mix(self, near: Any, far: Any) -> Any:
        kind, lanes = ("float32" if self.source.number.is_float else "int16"), lanes_of(near)
        total = near * _constant(3, kind, lanes) + far
        if kind == "float32":
            return total * _constant(1 / 16, kind, lanes)
        four, one, seven = (_constant(v, kind, lanes) for v in (4, 1, 7))
        total = let(total)
        return (total + seven + ((total >> four) & one)) >> four  # a half goes to the even neighbour, as in QuantizeLinear


def _constant(value: float, kind: str, lanes: int) -> Any:
    return broadcast(float(value) if kind == "float32" else int(value), kind, lanes)
