"""Sizes of the register tiles: what was measured on a core, else what was counted for it, else a rule that fills its registers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compile.tvm.cpu import Cpu
from compile.tvm.kernels.conv import Conv, Tile, format_of
from compile.tvm.kernels.depthwise import Depthwise

SHIPPED = Path(__file__).with_name("tiles.json")
"""{core: {shape or class of shapes: [pixels, vectors]}}, and under "evidence" what a core's come from: "time" where ``compile.tvm.tune``
measured shapes (``shape_of``) on that core; "instructions, emulated" where ``compile.tvm.rank`` counted what classes of shapes
(``class_of``) execute, which proves nothing about time. A shape that is known, shipped or tuned on the board, comes before its class.
"""

COUNTED_WIDTH = 32
"""Pixels of a row that classes are counted in; in a narrower one what is left of it counts more, so that only tiles that divide it fit."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Chooses tiles for a CPU. ``known``: shapes (``shape_of``) with a measured tile, classes (``class_of``) with a counted one."""

    cpu: Cpu
    known: Mapping[str, Tile] = field(default_factory=dict)

    @classmethod
    def shipped(cls, cpu: Cpu) -> Tiles:
        """With what comes with the package for this core."""
        records = json.loads(SHIPPED.read_text()).get(cpu.name, {})
        return cls(cpu, {shape: Tile(*sizes) for shape, sizes in records.items()})

    def dense(self, conv: Conv) -> Tile:
        """Tile of a dense convolution: as many pixels as the registers hold beside the weights, in at most four vectors of outputs."""
        known = self._known(conv)
        if known is not None:
            return known
        vectors = -(-conv.outputs // format_of(conv, self.cpu).lanes)
        count = next(n for n in (4, 3, 2, 1) if vectors % n == 0)
        neon = self.cpu.neon
        room = self.cpu.registers - (8 if neon else 1 + count)  # with fewer to spare LLVM spills
        pixels = room // (count + 1 if neon else count)  # a register of input for each
        limit = 12 if count < 3 else 6
        return Tile(max(1, min(pixels, limit, conv.finish.out.width)), count)

    def depthwise(self, conv: Depthwise) -> Tile:
        """Tile of a depthwise convolution: neighbouring pixels share the columns that they read."""
        known = self._known(conv)
        return known or Tile(min(8 if self.cpu.registers > 16 and not self.cpu.by_lane else 2, conv.finish.out.width), 1)

    def _known(self, conv: Conv | Depthwise) -> Tile | None:
        counted, width = self.known.get(class_of(conv, self.cpu)), conv.finish.out.width
        fits = counted is not None and (width >= COUNTED_WIDTH or width % counted.pixels == 0)
        return self.known.get(shape_of(conv)) or (counted if fits else None)


def class_of(conv: Conv | Depthwise, cpu: Cpu) -> str:
    """What the instructions of a tile depend on, e.g. "int8 1x1 of 4", its vectors of outputs being a multiple of 4 (12, 6, 3, 2, 1)."""
    kind = "int8" if conv.integer else conv.source.number.dtype
    if isinstance(conv, Depthwise):
        return f"{kind} depthwise"
    vectors = math.gcd(-(-conv.outputs // format_of(conv, cpu).lanes), 12)
    return f"{kind} {'1x1' if conv.kernel == 1 else 'kxk'} of {vectors}"


def shape_of(conv: Conv | Depthwise) -> str:
    """What the speed of a tile depends on, e.g. "int8 3x3s1 32-64 w128"."""
    source, out = conv.source, conv.finish.out
    kind = "int8" if conv.integer else source.number.dtype
    outputs = f"{conv.outputs}" if isinstance(conv, Conv) else "dw"
    return f"{kind} {conv.kernel}x{conv.kernel}s{conv.stride} {source.channels}-{outputs} w{out.width}{' add' if conv.finish.other else ''}"
