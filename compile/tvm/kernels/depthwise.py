"""Depthwise convolutions: lanes are channels; in int8, four taps of a column make one word for the dot product.

Rows y ... y + 3 of a column are interleaved into words once and serve every horizontal tap that needs the column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.tvm.kernels.conv import Tile, blocks, in_halves
from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Part, Place, kernel, part, rows
from compile.tvm.kernels.vectors import let, load, reinterpret, serial, shuffle, typed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compile.tvm.cpu import Cpu

_LOAD_LANES = 16
"""Narrow vectors are loaded up to this many channels at a time."""


@dataclass(frozen=True, slots=True)
class Depthwise:
    """One filter per channel; fields as in ``Conv``."""

    source: Place
    kernel: int
    stride: int
    pad: int
    finish: Finish

    @property
    def integer(self) -> bool:
        """Whether it multiplies integers."""
        return not self.source.number.is_float

    def lanes(self, cpu: Cpu) -> int:
        """Channels in a vector of sums."""
        return cpu.lanes * (2 if self.source.number.dtype == "float16" else 1)

    @property
    def groups(self) -> int:
        """Words per column: of four taps in integers, of one in floats."""
        return -(-self.kernel // 4) if self.integer else self.kernel


def pack_depthwise(weight: NDArray[Any], source: Place, lanes: int, halves: bool = False) -> NDArray[Any]:
    """Weights [C, 1, K, K] -> flat [vectors, words per column, K, lanes, taps of a word], zeros where either runs out.

    ``halves``: as ``Dot.halves``.
    """
    channels, _, k, _ = weight.shape
    taps = 1 if source.number.is_float else 4
    groups, vectors = -(-k // taps), -(-source.channels // lanes)
    full = np.zeros((vectors * lanes, groups * taps, k), weight.dtype)
    full[:channels, :k] = weight[:, 0]
    flat = np.ascontiguousarray(full.reshape(vectors, lanes, groups, taps, k).transpose(0, 2, 4, 1, 3)).reshape(-1)
    return in_halves(flat, lanes) if halves and taps == 4 else flat


def build_depthwise(conv: Depthwise, cpu: Cpu, tile: Tile) -> Any:
    """The kernel: (source, weight, bias, multiplier for integers, added tensor if any, out). ``tile.vectors`` is not used."""
    lanes = conv.lanes(cpu)
    vectors = -(-conv.source.channels // lanes)
    taps = conv.groups * conv.kernel * (4 if conv.integer else 1)
    bias, dtype = vectors * lanes, conv.source.number.dtype
    kind, total = ("int8", "int32") if conv.integer else (dtype, dtype)
    parts: list[Part] = [part("source", conv.source), ("weight", bias * taps, kind), ("bias", bias, total)]
    parts += [("multiplier", bias, "float32")] if conv.integer else []
    return kernel([*parts, *conv.finish.parts()], lambda *buffers: _Writer(conv, cpu, tile, buffers).emit())


class _Writer:
    """Emits one kernel."""

    def __init__(self, conv: Depthwise, cpu: Cpu, tile: Tile, buffers: tuple[Any, ...]) -> None:
        self.conv, self.cpu, self.tile, self.lanes = conv, cpu, tile, conv.lanes(cpu)
        self.source, self.weight, self.bias, self.out = buffers[0], buffers[1], buffers[2], buffers[-1]
        self.multiplier = buffers[3] if conv.integer else None
        self.other = buffers[-2] if conv.finish.other else None

    def emit(self) -> None:
        out = self.conv.finish.out
        at_once = max(1, _LOAD_LANES // self.lanes)
        vectors = -(-out.channels // self.lanes)
        partial = vectors * self.lanes > out.channels
        with rows(self.out, out) as y:
            for count, first, times in blocks(vectors, at_once, last_apart=partial):
                last = partial and first + count * times == vectors
                keep = out.channels - first * self.lanes if last else count * self.lanes
                for pixels, start, steps in blocks(out.width, self.tile.pixels):
                    with serial(times) as group, serial(steps) as x:
                        self._tile(y, start + x * pixels, pixels, first + group * count, count, keep)

    def _tile(self, y: Any, x: Any, pixels: int, vector: Any, vectors: int, keep: int) -> None:
        conv, lanes = self.conv, self.lanes
        top, left = y * conv.stride - conv.pad, x * conv.stride - conv.pad
        columns = (pixels - 1) * conv.stride + conv.kernel
        sums = [[load(self.bias, (vector + v) * lanes, lanes) for v in range(vectors)] for _ in range(pixels)]
        for g in range(conv.groups):
            words = [self._words(top, left + i, vector, vectors, g) for i in range(columns)]
            weights = [[self._weight(vector + v, g, kx) for v in range(vectors)] for kx in range(conv.kernel)]
            for kx in range(conv.kernel):
                for p in range(pixels):
                    for v in range(vectors):
                        sums[p][v] = self._mac(sums[p][v], words[p * conv.stride + kx][v], weights[kx][v])
        self._finish(sums, y, x, vector, vectors, keep)

    def _words(self, top: Any, column: Any, vector: Any, vectors: int, group: int) -> list[Any]:
        """The operands of one column for each vector of channels: interleaved rows, or one row of floats."""
        conv, lanes = self.conv, self.lanes
        if not conv.integer:
            return [let(load(self.source, conv.source.at(top + group, column, (vector + v) * lanes), lanes)) for v in range(vectors)]
        taps = [min(4 * group + i, conv.kernel - 1) for i in range(4)]  # those beyond the last have weights 0
        at = {i: let(load(self.source, conv.source.at(top + i, column, vector * lanes), vectors * lanes)) for i in sorted(set(taps))}
        loaded, wide = [at[i] for i in taps], vectors * lanes
        out = []
        for v in range(vectors):
            bytes_ = shuffle(loaded, [i * wide + v * lanes + lane for lane in range(lanes) for i in range(4)])
            out.append(tuple(let(part) for part in self.cpu.dot.activation(let(reinterpret(typed("int32", lanes), bytes_)))))
        return out

    def _weight(self, vector: Any, group: int, kx: int) -> Any:
        conv, lanes = self.conv, self.lanes
        taps = 4 if conv.integer else 1
        value = load(self.weight, ((vector * conv.groups + group) * conv.kernel + kx) * lanes * taps, lanes * taps)
        if not conv.integer:
            return let(value)
        return tuple(let(part) for part in self.cpu.dot.weight(reinterpret(typed("int32", lanes), value)))

    def _mac(self, total: Any, word: Any, weight: Any) -> Any:
        return let(self.cpu.dot.mac(total, word, weight) if self.conv.integer else total + word * weight)

    def _finish(self, sums: list[list[Any]], y: Any, x: Any, vector: Any, vectors: int, keep: int) -> None:
        finish, lanes = self.conv.finish, self.lanes
        scale = [let(load(self.multiplier, (vector + v) * lanes, lanes)) if self.conv.integer else None for v in range(vectors)]
        for p, totals in enumerate(sums):
            values = [finish.scaled(t, s) for t, s in zip(totals, scale, strict=True)]
            steps = [finish.steps(v, self.other, y, x + p, (vector + i) * lanes) for i, v in enumerate(values)]
            finish.write(self.out, finish.out.at(y, x + p, vector * lanes), steps, keep)
