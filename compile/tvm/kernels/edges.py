"""Where the packed tensors meet float images [1, C, H, W]: quantizing the input behind a pixel-unshuffle, adding the result to the image
behind a pixel-shuffle, and plain changes of layout for operators that have no kernel here.
"""

from __future__ import annotations

from typing import Any

from compile.tvm.kernels.conv import blocks
from compile.tvm.kernels.tensors import Part, Place, fill, kernel, part, read, rows, write
from compile.tvm.kernels.vectors import broadcast, cast, lanes_of, let, load, parallel, serial, shuffle, store

_GROUP = 16
"""Neighbouring pixels of the image taken at a time."""


def build_unshuffle(channels: int, factor: int, out: Place, neon: bool = False) -> Any:
    """(image float32 [channels, H, W], out): space to depth, the position in the cell being the slow part of the channel; then quantized.

    ``out`` is [H / factor, W / factor, factor² channels]. A factor of 1 only changes the layout.
    """
    height, width = out.height * factor, out.width * factor
    parts: list[Part] = [("image", (1, channels, height, width), "float32"), part("out", out)]

    def body(image: Any, o: Any) -> None:
        with rows(o, out) as y:
            for pixels, start, steps in blocks(out.width, max(1, _GROUP // factor)):
                with serial(steps) as i:
                    x = start + i * pixels
                    lines = []
                    for row in range(factor):
                        for c in range(channels):
                            at = (c * height + y * factor + row) * width + x * factor
                            lines.append(let(_quantized(load(image, at, pixels * factor), out, neon)))
                    _interleave(o, out.at(y, x), lines, pixels, factor, channels, out)

    return kernel(parts, body)


def _quantized(values: Any, out: Place, neon: bool) -> Any:
    ratio = 1 / out.number.scale
    return out.number.stored(values if ratio == 1 else values / broadcast(out.number.scale, "float32", lanes_of(values)), neon)


def _interleave(o: Any, at: Any, lines: list[Any], pixels: int, factor: int, channels: int, out: Place) -> None:
    """Lines [row * channels + c] of pixels * factor values -> pixels of out.channels values behind each other."""
    width = pixels * factor
    zero = broadcast(float(out.number.zero) if out.number.is_float else out.number.zero, out.number.dtype, width)
    filled = out.channels - factor**2 * channels
    sources = [*lines, zero] if filled else lines
    picks = []
    for p in range(pixels):
        for row in range(factor):
            for column in range(factor):
                picks += [(row * channels + c) * width + p * factor + column for c in range(channels)]
        picks += [len(lines) * width] * filled
    lanes = 64 if out.number.dtype != "float32" else 16
    for first in range(0, len(picks), lanes):
        store(o, at + first, _pick(sources, picks[first : first + lanes], width))


def _pick(sources: list[Any], picks: list[int], width: int) -> Any:
    """A shuffle that names only the vectors it needs."""
    used = sorted({i // width for i in picks})
    at = {line: k for k, line in enumerate(used)}
    return shuffle([sources[line] for line in used], [at[i // width] * width + i % width for i in picks])


def build_shuffle_add(source: Place, channels: int, factor: int) -> Any:
    """(source, image float32 [channels, H, W], out likewise): image + depth to space of the source.

    Channel c factor² + i factor + j of the source is row i, column j of the cell (ONNX ``DepthToSpace``, mode CRD).
    """
    height, width = source.height * factor, source.width * factor
    shape = (1, channels, height, width)
    parts: list[Part] = [part("source", source), ("image", shape, "float32"), ("out", shape, "float32")]

    def body(x: Any, image: Any, o: Any) -> None:
        with parallel(source.height) as y:
            for pixels, start, steps in blocks(source.width, max(1, _GROUP // factor)):
                with serial(steps) as i:
                    column = start + i * pixels
                    values = _pixels(x, source, y, column, pixels)
                    for c in range(channels):
                        for row in range(factor):
                            at = (c * height + y * factor + row) * width + column * factor
                            wanted = [p * source.channels + (c * factor + row) * factor + j for p in range(pixels) for j in range(factor)]
                            steps_ = source.number.steps(_pick(values, wanted, _LOAD))
                            real = steps_ * broadcast(source.number.scale, "float32", pixels * factor)
                            store(o, at, load(image, at, pixels * factor) + real)

    return kernel(parts, body)


_LOAD = 32


def _pixels(buffer: Any, source: Place, y: Any, x: Any, pixels: int) -> list[Any]:
    """Neighbouring pixels as vectors of ``_LOAD`` values behind each other; the last may reach into what follows."""
    count = -(-pixels * source.channels // _LOAD)
    return [let(load(buffer, source.at(y, x) + i * _LOAD, _LOAD)) for i in range(count)]


def build_to_plain(source: Place, channels: int) -> Any:
    """(source, out float32 [channels, height, width]): dequantized, channels first."""
    shape = (1, channels, source.height, source.width)
    parts: list[Part] = [part("source", source), ("out", shape, "float32")]

    def body(x: Any, o: Any) -> None:
        with parallel(source.height) as y, serial(channels) as c, serial(source.width) as column:
            real = read(x, source.at(y, column, c), 1, source.number) * broadcast(source.number.scale, "float32", 1)
            store(o, (c * source.height + y) * source.width + column, real)

    return kernel(parts, body)


def build_from_plain(channels: int, out: Place) -> Any:
    """(source float32 [channels, height, width], out): channels last, quantized."""
    shape = (1, channels, out.height, out.width)

    def body(x: Any, o: Any) -> None:
        with rows(o, out) as y, serial(out.width) as column:
            with serial(channels) as c:
                value = load(x, (c * out.height + y) * out.width + column, 1)
                write(o, out.at(y, column, c), cast("float32", value) / broadcast(out.number.scale, "float32", 1), out.number)
            if channels < out.channels:
                fill(o, out.at(y, column, channels), out.channels - channels, out.number)

    return kernel([("source", shape, "float32"), part("out", out)], body)
