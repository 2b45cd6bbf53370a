"""Sizes of the register tiles: what was measured on a core, else a rule that fills its registers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from compile.tvm.cpu import Cpu
from compile.tvm.kernels.conv import Conv, Tile, format_of
from compile.tvm.kernels.depthwise import Depthwise

SHIPPED = Path(__file__).with_name("tiles.json")
"""{core: {shape: [pixels, vectors]}}, measured on that core by ``compile.tvm.tune``."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """Chooses tiles for a CPU. ``known``: shapes (``shape_of``) with a measured tile."""

    cpu: Cpu
    known: Mapping[str, Tile] = field(default_factory=dict)

    @classmethod
    def shipped(cls, cpu: Cpu) -> Tiles:
        """With what comes with the package for this core."""
        records = json.loads(SHIPPED.read_text()).get(cpu.name, {})
        return cls(cpu, {shape: Tile(*sizes) for shape, sizes in records.items()})

    def dense(self, conv: Conv) -> Tile:
        """Tile of a dense convolution: as many pixels as the registers hold beside the weights, in at most four vectors of outputs."""
        known = self.known.get(shape_of(conv))
        if known is not None:
            return known
        vectors = -(-conv.outputs // format_of(conv, self.cpu).lanes)
        wide = self.cpu.form == "smull" and conv.integer  # it needs registers for its products
        count = next(n for n in ((3, 2, 1) if wide else (4, 3, 2, 1)) if vectors % n == 0)
        lane = self.cpu.by_lane if conv.integer else self.cpu.neon
        room = self.cpu.registers - (8 if lane else 1 + count)  # with fewer to spare LLVM spills
        pixels = room // (count + 1 if lane else count)  # a register of input for each
        limit = 3 if wide else 12 if count < 3 else 6
        return Tile(max(1, min(pixels, limit, conv.finish.out.width)), count)

    def depthwise(self, conv: Depthwise) -> Tile:
        """Tile of a depthwise convolution: neighbouring pixels share the columns that they read."""
        known = self.known.get(shape_of(conv))
        return known or Tile(min(8 if self.cpu.registers > 16 and not self.cpu.by_lane else 2, conv.finish.out.width), 1)


def shape_of(conv: Conv | Depthwise) -> str:
    """What the speed of a tile depends on, e.g. "int8 3x3s1 32-64 w128"."""
    source, out = conv.source, conv.finish.out
    kind = "int8" if conv.integer else source.number.dtype
    outputs = f"{conv.outputs}" if isinstance(conv, Conv) else "dw"
    return f"{kind} {conv.kernel}x{conv.kernel}s{conv.stride} {source.channels}-{outputs} w{out.width}{' add' if conv.finish.other else ''}"
