"""Tile sizes by measurement on this machine: every kernel of a network by itself, every tile that fits the registers.

A record is a file named after everything that its time depends on (core, shape, tile, TVM, the code of the kernels), so that an
interrupted run goes on where it stopped and a change of the code measures again. What wins is merged into ``tiles.json``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compile.tvm.assemble import assemble
from compile.tvm.cpu import Cpu
from compile.tvm.fuse import borders, fuse_sums
from compile.tvm.graph import Graph
from compile.tvm.kernels.conv import Conv, Tile
from compile.tvm.kernels.depthwise import Depthwise
from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import Number
from compile.tvm.network import read_network
from compile.tvm.steps import ConvStep, FloatStep, Network, Step, Tensor
from compile.tvm.tiles import Tiles, shape_of
from quantize.artifact import ModelFolder

_ROUNDS = 15


def tune(folder: ModelFolder, precision: str, size: int, records: Path) -> dict[str, Tile]:
    """Measure the convolutions of a network.

    Args:
        folder: the network.
        precision: "int8" or "fp32".
        size: side of the input in pixels.
        records: folder of the records; created, or gone on with.

    Returns:
        Shape -> the fastest tile.

    """
    target, cpu, network = _network(folder, precision, size)
    records.mkdir(parents=True, exist_ok=True)
    best: dict[str, tuple[float, Tile]] = {}
    for step in network.steps:
        if not isinstance(step, ConvStep):
            continue
        shape = shape_of(spec_of(step))
        for tile in candidates(cpu, spec_of(step)):
            seconds = _recorded(records, cpu, shape, tile, step, target)
            if seconds < best.get(shape, (float("inf"), tile))[0]:
                best[shape] = (seconds, tile)
    return {shape: tile for shape, (_, tile) in best.items()}


def merge(path: Path, core: str, tiles: dict[str, Tile]) -> None:
    """Add tiles to a file of the form of ``tiles.json``."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content.setdefault(core, {}).update({shape: [t.pixels, t.vectors] for shape, t in tiles.items()})
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def measure_steps(folder: ModelFolder, precision: str, size: int) -> Iterator[str]:
    """Lines of text: each step of a network, its time in microseconds with the shipped tiles, multiplications per second."""
    target, cpu, network = _network(folder, precision, size)
    for step in network.steps:
        if not isinstance(step, FloatStep):
            seconds = time_step(step, cpu, Tiles.shipped(cpu), target)
            macs = step.out.height * step.out.width * step.weight.size if isinstance(step, ConvStep) and isinstance(step.out, Tensor) else 0
            yield f"{type(step).__name__.removesuffix('Step'):<12}{step.name:<48}{seconds * 1e6:8.0f} us{macs / seconds / 1e9:7.0f} G/s"


def candidates(cpu: Cpu, spec: Conv | Depthwise) -> list[Tile]:
    """Tiles that leave registers for the operands."""
    if isinstance(spec, Depthwise):
        return [Tile(pixels, 1) for pixels in (1, 2, 4, 8, 16) if pixels <= spec.finish.out.width]
    vectors = -(-spec.outputs // cpu.lanes)
    fits = [
        Tile(pixels, count)
        for count in (1, 2, 3, 4, 6)
        for pixels in (2, 3, 4, 5, 6, 8, 10, 12, 14)
        if count <= vectors and pixels * count + count + 1 <= cpu.registers and pixels * count >= cpu.registers // 4
    ]
    return [t for t in fits if t.pixels <= spec.finish.out.width] or [Tiles(cpu).dense(spec)]


def spec_of(step: ConvStep) -> Conv | Depthwise:
    """What a step's kernel is built from, without borders."""
    source, *rest, out = (v.place() for v in (*step.inputs, step.out) if isinstance(v, Tensor))
    finish = Finish(step.activation, step.grid, out, rest[0] if rest else None)
    if step.depthwise:
        return Depthwise(source, step.weight.shape[2], step.stride, step.pad, finish)
    return Conv(source, len(step.weight), step.weight.shape[2], step.stride, step.pad, finish)


def time_step(step: Step, cpu: Cpu, tiles: Tiles, target: Any) -> float:
    """Build one step alone and time it: the lower quartile in seconds, so that other work on the machine counts little."""
    import tvm
    from tvm import relax

    alone = Network((step,), step.inputs, step.out)
    main = relax.VirtualMachine(tvm.compile(assemble(alone, cpu, tiles, 17).module, target=target), tvm.cpu())["main"]
    pads, rng, inputs = borders(alone), np.random.default_rng(0), []
    for value in step.inputs:
        shape, dtype = (
            (value.place(pads.get(value.name, 0)).size, value.number.dtype) if isinstance(value, Tensor) else (value.shape, "float32")
        )
        inputs.append(tvm.runtime.tensor((rng.random(shape) * (1 if dtype.startswith("float") else 100)).astype(dtype)))
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        main(*inputs)
        times.append(time.perf_counter() - start)
    return float(np.percentile(times[2:], 25))


def _recorded(records: Path, cpu: Cpu, shape: str, tile: Tile, step: ConvStep, target: Any) -> float:
    key = hashlib.sha256(json.dumps([cpu.name, shape, tile.pixels, tile.vectors, _versions()]).encode()).hexdigest()
    path = records / f"{key}.json"
    if not path.exists():
        seconds = time_step(step, cpu, Tiles(cpu, {shape: tile}), target)
        record = {"core": cpu.name, "shape": shape, "tile": [tile.pixels, tile.vectors], "seconds": seconds}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(record))
        temporary.replace(path)
    return float(json.loads(path.read_text())["seconds"])


def _versions() -> str:
    code = b"".join(p.read_bytes() for p in sorted((Path(__file__).parent / "kernels").glob("*.py")))
    return f"{importlib.metadata.version('apache-tvm')} {hashlib.sha256(code).hexdigest()}"


def _network(folder: ModelFolder, precision: str, size: int) -> tuple[Any, Cpu, Network]:
    import onnx
    import tvm

    from compile.source import source_file
    from compile.tvm.backend import host_dict
    from compile.tvm.cpu import cpu_of
    from models.export import fix_size

    target = tvm.target.Target(host_dict())
    cpu = cpu_of(target)
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "fixed.onnx"
        fix_size(source_file(folder, cpu.flavour if precision == "int8" else "float"), path, size, size)
        network = fuse_sums(read_network(Graph(onnx.load(str(path))), cpu.activation, Number()))
    return target, cpu, network
