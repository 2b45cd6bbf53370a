"""Tile sizes by instructions, for cores that no one has here: what each tile of a class of shapes executes under an emulated CPU.

    python -m compile.tvm.rank cortex-a76 [--features +dotprod +fullfp16] [--like cortex-a78ae ...]

The count takes in loads, stores and what spills. It proves nothing about time (cores differ in how many instructions of a class they
finish in a cycle), so only tiles with enough sums to hide the latency of a multiply-add take part, and what ``compile.tvm.tune`` measures
on a board comes first. Of cores that execute in order it says even less: there it keeps away from tiles that spill, and among equals
takes the one of most sums, which leaves most between a product and its use. The winners go to ``tiles.json`` with that said beside them;
``--like``: cores of the same instructions that get them too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compile.tvm.alone import command, program
from compile.tvm.cpu import IN_ORDER, Cpu, cpu_of, target_of
from compile.tvm.kernels.conv import Conv, Tile, build_conv, format_of
from compile.tvm.kernels.depthwise import Depthwise, build_depthwise
from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Number, Place
from compile.tvm.tiles import COUNTED_WIDTH, SHIPPED, Tiles, class_of
from targets.emulate.counting import of_program

EVIDENCE = "instructions, emulated"
ORDER_MATTERS = "executes in order, where their order decides as much as their number"

VECTORS = {12: (3, 4), 6: (2, 3), 4: (2, 4), 3: (3,), 2: (2,)}
"""Classes by their vectors of outputs -> vectors of a tile; with none in common the rule chooses."""

_HEIGHT, _CHANNELS = 2, 32
_LATENCY = 8
"""Sums that two pipes with a latency of four cycles need to be busy."""


def specs(cpu: Cpu) -> Iterator[Conv | Depthwise]:
    """A shape of each class, in each type that the CPU computes in."""
    for dtype in ("int8", "float32", *(("float16",) if cpu.half else ())):
        number = Number(dtype, *((0.05, 0) if dtype == "int8" else ()))
        for kernel in (1, 3):
            source = Place(_HEIGHT, COUNTED_WIDTH, _CHANNELS, number, kernel // 2)
            lanes = format_of(_dense(source, kernel, 1, cpu), cpu).lanes
            yield from (_dense(source, kernel, vectors * lanes, cpu) for vectors in VECTORS)
        yield Depthwise(source, 3, 1, 1, Finish("relu", number, Place(_HEIGHT, COUNTED_WIDTH, _CHANNELS, number), neon=cpu.neon))


def _dense(source: Place, kernel: int, outputs: int, cpu: Cpu) -> Conv:
    out = Place(_HEIGHT, COUNTED_WIDTH, outputs, source.number)
    return Conv(source, outputs, kernel, 1, kernel // 2, Finish("relu", source.number, out, neon=cpu.neon))


def candidates(cpu: Cpu, spec: Conv | Depthwise) -> list[Tile]:
    """Tiles whose sums fit the registers and hide the latency, and the rule's own."""
    if isinstance(spec, Depthwise):
        return [Tile(pixels, 1) for pixels in (1, 2, 3, 4, 6, 8)]
    counts = VECTORS[spec.outputs // format_of(spec, cpu).lanes]
    sizes = [(p, v) for v in counts for p in (2, 3, 4, 5, 6, 8, 10, 12) if _LATENCY <= p * v <= cpu.registers - 7]
    return list(dict.fromkeys([*(Tile(*s) for s in sizes), Tiles(cpu).dense(spec)]))


def count(spec: Conv | Depthwise, cpu: Cpu, target: Any, tile: Tile) -> dict[str, float]:
    """Instructions by class (``targets.emulate.encodings``) that one call of a kernel executes, per multiply-accumulate."""
    import numpy as np

    dense = isinstance(spec, Conv)
    function = build_conv(spec, cpu, tile) if isinstance(spec, Conv) else build_depthwise(spec, cpu, tile)
    arrays = [np.zeros(tuple(int(d) for d in p.shape), str(p.dtype)) for p in function.params]
    with tempfile.TemporaryDirectory(prefix="rank-") as tmp:
        path = program(function, target, Path(tmp))
        one, three = (of_program(cpu.name, command(path, arrays, repeat)) for repeat in (1, 3))
    out = spec.finish.out
    macs = out.height * out.width * out.channels * spec.kernel**2 * (spec.source.channels if dense else 1)
    return {name: (three[name] - one[name]) / 2 / macs for name in one}


def rank(target: Any) -> Iterator[tuple[str, Tile, dict[str, float]]]:
    """Class, tile and counts of every candidate, class by class."""
    cpu = cpu_of(target)
    for spec in specs(cpu):
        for tile in candidates(cpu, spec):
            yield class_of(spec, cpu), tile, count(spec, cpu, target, tile)


def fewest(totals: Mapping[Tile, float]) -> Tile:
    """The tile of fewest instructions; among those that are as good within 2 %, the one of most sums, which hide latency best."""
    good = [tile for tile, total in totals.items() if total <= 1.02 * min(totals.values())]
    return max(good, key=lambda tile: (tile.pixels * tile.vectors, -totals[tile]))


def ship(path: Path, core: str, tiles: dict[str, Tile], like: list[str]) -> None:
    """Put the tiles of classes into a file of the form of ``tiles.json``, in the place of those that the core had."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for name in (core, *like):
        kept = {shape: sizes for shape, sizes in content.get(name, {}).items() if " w" in shape}
        content[name] = {**kept, **{shape: [t.pixels, t.vectors] for shape, t in tiles.items()}}
        said = EVIDENCE if name == core else f"{EVIDENCE}, of {core}"
        content.setdefault("evidence", {})[name] = f"{said}; {ORDER_MATTERS}" if name in IN_ORDER else said
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(prog="python -m compile.tvm.rank", description=__doc__.splitlines()[0])
    parser.add_argument("core")
    parser.add_argument("--features", nargs="*", default=[])
    parser.add_argument("--like", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    kind = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": options.core, "mattr": ["+neon", *options.features]}
    found: dict[str, dict[Tile, float]] = {}
    for name, tile, classes in rank(target_of(kind)):
        total = sum(classes.values())
        found.setdefault(name, {})[tile] = total
        mix = ", ".join(f"{k} {v:.4f}" for k, v in classes.items() if v >= 0.00005)
        sys.stdout.write(f"{name:24} {tile.pixels:2} x {tile.vectors}  {total:.4f} instructions per MAC: {mix}\n")
    ship(options.out, options.core, {name: fewest(totals) for name, totals in found.items()}, options.like)


if __name__ == "__main__":
    main()
