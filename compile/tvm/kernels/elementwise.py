"""Kernels that touch every value once: sums, concatenation, changes of scale, the gate and the mean of squeeze-and-excite."""

from __future__ import annotations

from typing import Any

from compile.tvm.kernels.tensors import Place, fill, kernel, part, pieces, read, rows, write
from compile.tvm.kernels.vectors import broadcast, cast, lanes_of, let, load, parallel, serial, store

WIDE = 16
"""Values computed at a time; narrower registers take several for it."""


def build_add(a: Place, b: Place, out: Place, neon: bool = False) -> Any:
    """(a, b, out): out = a + b, each in its own scale."""

    def body(x: Any, z: Any, o: Any) -> None:
        ratio = [p.number.scale / out.number.scale for p in (a, b)]
        with rows(o, out) as y:
            for lanes, first, times in pieces(out.width * out.channels, WIDE):
                with serial(times) as i:
                    c = first + i * lanes
                    left, right = (read(buf, p.at(y, 0, c), lanes, p.number) for buf, p in ((x, a), (z, b)))
                    total = _scaled(left, ratio[0]) + _scaled(right, ratio[1])
                    write(o, out.at(y, 0, c), total, out.number, neon)

    return kernel([part("a", a), part("b", b), part("out", out)], body)


def build_concat(sources: list[Place], out: Place, neon: bool = False) -> Any:
    """(source, ..., out): sources behind each other along the channels, in the scale of ``out``; one source changes its scale.

    ``sources`` come with as many channels as the network's own, so that no padding lies between them.
    """

    def body(*buffers: Any) -> None:
        o = buffers[-1]
        with rows(o, out) as y, serial(out.width) as x:
            offset = 0
            for buffer, place in zip(buffers[:-1], sources, strict=True):
                for lanes, first, times in pieces(place.channels, WIDE):
                    with serial(times) as i:
                        c = first + i * lanes
                        steps = _moved(buffer, place, out, place.at(y, x, c), lanes, neon)
                        store(o, out.at(y, x, offset + c), steps)
                offset += place.channels
            if offset < out.channels:
                fill(o, out.at(y, x, offset), out.channels - offset, out.number)

    return kernel([*(part(f"source{i}", p) for i, p in enumerate(sources)), part("out", out)], body)


def _moved(buffer: Any, source: Place, out: Place, at: Any, lanes: int, neon: bool) -> Any:
    """Stored values of ``out`` for those of ``source``: unchanged where both say the same."""
    if source.number == out.number:
        return load(buffer, at, lanes)
    return out.number.stored(_scaled(read(buffer, at, lanes, source.number), source.number.scale / out.number.scale), neon)


def build_spread(source: Place, out: Place) -> Any:
    """(source, out): four blocks of channels become the pixels of a 2x2 cell, row by row."""

    def body(x: Any, o: Any) -> None:
        with rows(o, out) as y, serial(source.width) as column:
            for right in range(2):
                for lanes, first, times in pieces(out.channels, WIDE):
                    with serial(times) as i:
                        c = first + i * lanes
                        at = source.at(y // 2, column, (y % 2 * 2 + right) * out.channels + c)
                        store(o, out.at(y, 2 * column + right, c), load(x, at, lanes))

    return kernel([part("source", source), part("out", out)], body)


def build_gate(source: Place, gate: Place, out: Place, neon: bool = False) -> Any:
    """(source, gate, out): out = source * gate, a float tensor of one pixel, channel by channel."""
    channels = source.channels

    def body(x: Any, g: Any, o: Any) -> None:
        ratio = source.number.scale / out.number.scale
        with rows(o, out) as y:
            for lanes, first, times in pieces(channels, WIDE):
                with serial(times) as i:
                    c = first + i * lanes
                    factor = let(_scaled(read(g, gate.at(0, 0, c), lanes, gate.number), ratio))
                    with serial(out.width) as column:
                        steps = read(x, source.at(y, column, c), lanes, source.number) * factor
                        write(o, out.at(y, column, c), steps, out.number, neon)

    return kernel([part("source", source), part("gate", gate), part("out", out)], body)


def build_mean(source: Place, out: Place) -> Any:
    """(source, out): the mean of every channel over the image, a float tensor of one pixel."""
    channels = source.channels
    total = "float32" if source.number.is_float else "int32"

    def body(x: Any, o: Any) -> None:
        from tvm.script.ir_builder import tirx as ib

        sums = ib.alloc_buffer((WIDE,), total, scope="local")
        for lanes, first, times in pieces(channels, WIDE):
            with parallel(times) as i:
                c = first + i * lanes
                store(sums, 0, broadcast(0, total, lanes))
                with serial(source.height) as y, serial(source.width) as column:
                    store(sums, 0, load(sums, 0, lanes) + cast(total, load(x, source.at(y, column, c), lanes)))
                mean = _scaled(cast("float32", load(sums, 0, lanes)), 1 / (source.height * source.width))
                zero = broadcast(float(source.number.zero), "float32", lanes)
                write(o, out.at(0, 0, c), _scaled(mean - zero, source.number.scale), out.number)

    return kernel([part("source", source), part("out", out)], body)


def _scaled(value: Any, factor: float) -> Any:
    return value if factor == 1 else value * broadcast(factor, "float32", lanes_of(value))
