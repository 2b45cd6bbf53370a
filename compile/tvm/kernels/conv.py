"""Dense convolutions: a register tile of pixels x output channels; each step multiplies one input word per pixel with vectors of weights.

A word is what one 32-bit lane takes: four int8 channels for a dot product, or one float32 channel (16 bits and one channel in float16).
Weights are packed [groups of output vectors, k, k, words, vectors of the group, lanes, channels of a word], a group being what a tile
takes, so that every step reads them in order. Where the CPU multiplies halves of words, a vector is [2, lanes, 2] instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Part, Place, kernel, part, rows
from compile.tvm.kernels.vectors import broadcast, let, load, reinterpret, serial, shuffle, store, typed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compile.tvm.cpu import Cpu


@dataclass(frozen=True, slots=True)
class Tile:
    """How many pixels of a row and how many vectors of output channels a register tile holds."""

    pixels: int
    vectors: int


@dataclass(frozen=True, slots=True)
class Conv:
    """A dense convolution.

    source   input, with a border of at least ``pad``
    outputs  output channels
    kernel, stride, pad  as in ONNX, equal along both axes
    finish   what is done with the sums
    """

    source: Place
    outputs: int
    kernel: int
    stride: int
    pad: int
    finish: Finish

    @property
    def integer(self) -> bool:
        """Whether it multiplies integers."""
        return not self.source.number.is_float


@dataclass(frozen=True, slots=True)
class Format:
    """Types and widths of the arithmetic of a convolution on a CPU."""

    lanes: int
    per_word: int
    weight: str
    accumulator: str
    load_words: int

    @property
    def register(self) -> str:
        """A vector of accumulators."""
        return typed(self.accumulator, self.lanes)


def format_of(conv: Conv, cpu: Cpu) -> Format:
    """Integers in words of four, floats one by one; where lanes can be operands, as much of a register of input as divides the pixel."""
    dtype = conv.source.number.dtype
    lanes = cpu.lanes * (2 if dtype == "float16" else 1)
    per_word = 4 if conv.integer else 1
    words = conv.source.channels // per_word
    at_once = max(n for n in range(1, lanes + 1) if words % n == 0) if cpu.neon else 1
    return Format(lanes, per_word, "int8" if conv.integer else dtype, "int32" if conv.integer else dtype, at_once)


def pack(weight: NDArray[Any], source: Place, lanes: int, group: int, halves: bool = False) -> NDArray[Any]:
    """Weights [O, I, K, K] -> flat [groups, K, K, words, group, lanes, channels of a word], zeros where O or I runs out.

    ``group`` is how many vectors of outputs a tile takes; the last group may be smaller. ``halves``: as ``Dot.halves``.
    """
    per_word = 1 if source.number.is_float else 4
    outputs, inputs, k, _ = weight.shape
    vectors = -(-outputs // lanes)
    full = np.zeros((vectors * lanes, source.channels, k, k), weight.dtype)
    full[:outputs, :inputs] = weight
    split = full.reshape(vectors, lanes, source.channels // per_word, per_word, k, k)
    flat = np.concatenate([split[i : i + group].transpose(4, 5, 2, 0, 1, 3).reshape(-1) for i in range(0, vectors, group)])
    return in_halves(flat, lanes) if halves and per_word == 4 else flat


def in_halves(words: NDArray[Any], lanes: int) -> NDArray[Any]:
    """Vectors of ``lanes`` words, flat: the first two bytes of every word before the last two."""
    return np.ascontiguousarray(words.reshape(-1, lanes, 2, 2).transpose(0, 2, 1, 3)).reshape(-1)


def build_conv(conv: Conv, cpu: Cpu, tile: Tile) -> Any:
    """The kernel: (source, weight, bias, multiplier for integers, added tensor if any, out)."""
    form = format_of(conv, cpu)
    vectors = -(-conv.outputs // form.lanes)
    size = vectors * conv.kernel**2 * conv.source.channels * form.lanes
    parts: list[Part] = [part("source", conv.source), ("weight", size, form.weight), ("bias", vectors * form.lanes, form.accumulator)]
    parts += [("multiplier", vectors * form.lanes, "float32")] if conv.integer else []
    return kernel([*parts, *conv.finish.parts()], lambda *buffers: _Writer(conv, cpu, form, tile, buffers).emit())


class _Writer:
    """Emits one kernel."""

    def __init__(self, conv: Conv, cpu: Cpu, form: Format, tile: Tile, buffers: tuple[Any, ...]) -> None:
        from tvm.script.ir_builder import tirx as ib

        self.conv, self.cpu, self.form, self.tile = conv, cpu, form, tile
        self.source, self.weight, self.bias, self.out = buffers[0], buffers[1], buffers[2], buffers[-1]
        self.multiplier = buffers[3] if conv.integer else None
        self.other = buffers[-2] if conv.finish.other else None
        self.sums = ib.alloc_buffer((tile.pixels * tile.vectors * form.lanes,), form.accumulator, scope="local")

    def emit(self) -> None:
        out, lanes = self.conv.finish.out, self.form.lanes
        vectors = -(-self.conv.outputs // lanes)
        partial = vectors * lanes > out.channels
        with rows(self.out, out) as y:
            for count, first, times in blocks(vectors, self.tile.vectors, last_apart=partial):
                keep = out.channels - first * lanes if partial and first + count * times == vectors else count * lanes
                with serial(times) as group:
                    for pixels, start, steps in blocks(out.width, self.tile.pixels):
                        with serial(steps) as x:
                            self._tile(y, start + x * pixels, pixels, first + group * count, count, keep)

    def _tile(self, y: Any, x: Any, pixels: int, vector: Any, vectors: int, keep: int) -> None:
        lanes, k = self.form.lanes, self.conv.kernel
        for v in range(vectors):
            for p in range(pixels):
                store(self.sums, self._sum(p, v), load(self.bias, (vector + v) * lanes, lanes))
        words = self.conv.source.channels // self.form.per_word
        with serial(k) as ky, serial(k) as kx, serial(words // self.form.load_words) as word:
            first = vector * k * k * words + ((ky * k + kx) * words + word * self.form.load_words) * vectors
            row, column = (at * self.conv.stride + tap - self.conv.pad for at, tap in ((y, ky), (x, kx)))
            self._multiply(row, column, word, first, pixels, vectors)
        self._finish(y, x, pixels, vector, vectors, keep)

    def _multiply(self, y: Any, x: Any, word: Any, first: Any, pixels: int, vectors: int) -> None:
        """One step for each word that is loaded at once: a vector of weights per vector of outputs, times one word per pixel."""
        form = self.form
        loaded = [self._inputs(y, x + p * self.conv.stride, word) for p in range(pixels)]
        for j in range(form.load_words):
            weights = [self._weights((first + j * vectors + v) * form.lanes * form.per_word) for v in range(vectors)]
            for p in range(pixels):
                value = self._operand(loaded[p], j)
                for v in range(vectors):
                    at = self._sum(p, v)
                    store(self.sums, at, self._mac(load(self.sums, at, form.lanes), value, weights[v]))

    def _inputs(self, y: Any, x: Any, word: Any) -> Any:
        form, per_word = self.form, self.form.per_word
        words = form.load_words if form.load_words == 1 else form.lanes  # the rest of a register is not used
        value = load(self.source, self.conv.source.at(y, x, word * form.load_words * per_word), words * per_word)
        if not self.conv.integer:
            return let(value)
        return let(reinterpret(typed("int32", words), value))

    def _operand(self, loaded: Any, j: int) -> Any:
        lanes, dot = self.form.lanes, self.cpu.dot
        if self.conv.integer and dot.copies:
            words = broadcast(loaded, "", lanes) if self.form.load_words == 1 else loaded
            return tuple(let(v) for v in dot.copies(words, j))
        copies = broadcast(loaded, "", lanes) if self.form.load_words == 1 else shuffle([loaded], [j] * lanes)
        return tuple(let(v) for v in dot.activation(copies)) if self.conv.integer else let(copies)

    def _weights(self, at: Any) -> Any:
        value = load(self.weight, at, self.form.lanes * self.form.per_word)
        if not self.conv.integer:
            return let(value)
        return tuple(let(v) for v in self.cpu.dot.weight(reinterpret(typed("int32", self.form.lanes), value)))

    def _mac(self, total: Any, value: Any, weight: Any) -> Any:
        return self.cpu.dot.mac(total, value, weight) if self.conv.integer else total + value * weight

    def _finish(self, y: Any, x: Any, pixels: int, vector: Any, vectors: int, keep: int) -> None:
        finish, lanes = self.conv.finish, self.form.lanes
        scale = [let(load(self.multiplier, (vector + v) * lanes, lanes)) if self.conv.integer else None for v in range(vectors)]
        for p in range(pixels):
            steps = [self._steps(p, v, scale[v], y, x + p, (vector + v) * lanes) for v in range(vectors)]
            finish.write(self.out, finish.out.at(y, x + p, vector * lanes), steps, keep)

    def _steps(self, p: int, v: int, scale: Any, y: Any, x: Any, c: Any) -> Any:
        value = self.conv.finish.scaled(load(self.sums, self._sum(p, v), self.form.lanes), scale)
        return self.conv.finish.steps(value, self.other, y, x, c)

    def _sum(self, p: int, v: int) -> int:
        return (p * self.tile.vectors + v) * self.form.lanes


def blocks(total: int, size: int, last_apart: bool = False) -> Iterator[tuple[int, int, int]]:
    """Cut ``total`` into blocks.

    Args:
        total: how many there are.
        size: of a full block.
        last_apart: yield the last block by itself even when it is full.

    Yields:
        size of the blocks, index of the first, number of blocks: full ones, then what is left.

    """
    full, rest = divmod(total, size)
    apart = 1 if last_apart and full and not rest else 0
    for length, first, times in ((size, 0, full - apart), (size, (full - 1) * size, apart), (rest, full * size, 1 if rest else 0)):
        if times:
            yield length, first, times
