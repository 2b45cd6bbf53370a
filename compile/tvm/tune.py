"""Tile sizes by measurement, on this machine or on a board: every kernel of a network by itself, tiles that fit the registers.

A record is a file named after everything that its time depends on (core, shape, tile, TVM, the code of the kernels), so that an
interrupted run goes on where it stopped and a change of the code measures again. What wins may be merged into ``tiles.json``.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable, Iterator
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

Measure = Callable[[ConvStep, Cpu, Tiles, Any], float]


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
    return tune_network(network, cpu, target, records)


def tune_network(
    network: Network, cpu: Cpu, target: Any, records: Path, measure: Measure | None = None, trials: int | None = None
) -> dict[str, Tile]:
    """Measure the convolutions of a network that has been read, those with the most multiplications first.

    Args:
        network: after ``fuse_sums``.
        cpu: of ``target``.
        target: ``tvm.target.Target``.
        records: folder of the records; created, or gone on with.
        measure: (step, cpu, tiles, target) -> seconds; by default on this machine.
        trials: measurements at most; what is on record is read and does not count.

    Returns:
        Shape -> the fastest tile; without the shapes that no measurement was left for.

    """
    records.mkdir(parents=True, exist_ok=True)
    shapes = {shape_of(spec_of(s)): s for s in sorted(_convolutions(network), key=_work)}
    left = float("inf") if trials is None else trials
    best: dict[str, Tile] = {}
    for shape, step in reversed(shapes.items()):
        seconds: dict[Tile, float] = {}
        for tile in candidates(cpu, spec_of(step)):
            record = _record_of(records, cpu, shape, tile)
            if not record.exists():
                if left <= 0:
                    continue
                left -= 1
                _write(record, cpu, shape, tile, (measure or time_step)(step, cpu, Tiles(cpu, {shape: tile}), target))
            seconds[tile] = float(json.loads(record.read_text())["seconds"])
        if seconds:
            best[shape] = min(seconds, key=lambda tile: seconds[tile])
    return best


def _convolutions(network: Network) -> list[ConvStep]:
    return [s for s in network.steps if isinstance(s, ConvStep)]


def _work(step: ConvStep) -> int:
    return step.out.height * step.out.width * step.weight.size if isinstance(step.out, Tensor) else 0


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


def _record_of(records: Path, cpu: Cpu, shape: str, tile: Tile) -> Path:
    key = hashlib.sha256(json.dumps([cpu.name, cpu.form, shape, tile.pixels, tile.vectors, _versions()]).encode()).hexdigest()
    return records / f"{key}.json"


def _write(path: Path, cpu: Cpu, shape: str, tile: Tile, seconds: float) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"core": cpu.name, "shape": shape, "tile": [tile.pixels, tile.vectors], "seconds": seconds}))
    temporary.replace(path)


def _versions() -> str:
    here = Path(__file__).parent
    code = b"".join(p.read_bytes() for p in (*sorted((here / "kernels").glob("*.py")), here / "cpu.py"))
    return f"{importlib.metadata.version('apache-tvm')} {hashlib.sha256(code).hexdigest()}"


def _network(folder: ModelFolder, precision: str, size: int) -> tuple[Any, Cpu, Network]:
    import onnx
    import tvm

    from compile.source import source_file
    from compile.tvm.cpu import cpu_of
    from compile.tvm.host import host_dict
    from models.export import fix_size

    target = tvm.target.Target(host_dict())
    cpu = cpu_of(target)
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "fixed.onnx"
        fix_size(source_file(folder, cpu.flavour if precision == "int8" else "float"), path, size, size)
        network = fuse_sums(read_network(Graph(onnx.load(str(path))), cpu.activation, Number()))
    return target, cpu, network
