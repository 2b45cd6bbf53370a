"""Microbenchmarks for the estimator: small networks, one kind of operator each, written as model folders that every backend builds.

All of them look like a student from outside (an image in, an image out, the same stem and head), so that whatever runs a student runs
them, and so that their difference is the body: what ``bench --calibrate`` times, ``targets.calibration`` takes apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from targets.micrograph import Graph

ACTIVATIONS = {"relu": "Relu", "relu6": "Clip", "hardswish": "HardSwish"}
SIZE_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class Micro:
    """One microbenchmark.

    kind        what the body repeats: dense, pointwise, depthwise, add, se, skip, resize, concat, deconv, or none (stem and head alone)
    channels    width of the body
    unshuffle   1, 2 or 4: the body runs at the image's side divided by it
    repeat      how often the body is repeated
    kernel      of its convolutions
    activation  behind them, or behind the stem where there is no body: relu, relu6 or hardswish
    mode        of up-sampling
    """

    kind: str
    channels: int = 32
    unshuffle: int = 2
    repeat: int = 3
    kernel: int = 3
    activation: str = "relu"
    mode: str = "linear"

    @property
    def name(self) -> str:
        """Unique in a set."""
        parts = (self.kind, f"c{self.channels}", f"u{self.unshuffle}", f"x{self.repeat}", f"k{self.kernel}", self.activation)
        return "-".join([*parts, *([self.mode] if self.kind == "resize" else [])])


def default_set() -> list[Micro]:
    """What is timed unless asked otherwise: every kind at several widths and resolutions."""
    shapes = ((16, 1), (16, 2), (32, 2), (64, 2), (32, 4), (96, 4), (160, 4))
    found = [Micro("none", c, u) for c, u in ((16, 1), (16, 2), (64, 2), (32, 4), (128, 4))]
    found += [Micro("none", c, u, activation=a) for a in ("relu6", "hardswish") for c, u in ((16, 2), (32, 2), (96, 4))]
    for kind in ("dense", "pointwise", "depthwise"):
        found += [Micro(kind, c, u) for c, u in shapes]
        found += [Micro(kind, c, u, activation=a) for a in ("relu6", "hardswish") for c, u in ((32, 2), (16, 2), (96, 4))]
    found += [Micro("depthwise", c, u, kernel=5) for c, u in ((32, 2), (96, 4))]
    found += [Micro(kind, c, u) for kind in ("add", "se", "concat", "skip") for c, u in ((32, 2), (64, 2), (64, 4), (160, 4))]
    found += [Micro("resize", c, u, 2, mode=mode) for mode in ("linear", "nearest") for c, u in ((16, 2), (64, 2), (96, 4))]
    return found + [Micro("deconv", c, u, 2) for c, u in ((16, 2), (64, 2), (96, 4))]


def write_set(folder: Path, micros: list[Micro], opset: int = 17) -> Iterator[tuple[Micro, Path]]:
    """Write each microbenchmark as a model folder (``quantize.artifact``): float.onnx, both Q/DQ flavours, facts.

    Args:
        folder: gets one folder per microbenchmark.
        micros: names must differ.
        opset: of the files.

    """
    for micro in micros:
        yield micro, write(folder / micro.name, micro, opset)


def write(folder: Path, micro: Micro, opset: int = 17) -> Path:
    """Write one model folder and return it. The weights are random, and the same in every file and run."""
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    for file, flavour in (("float", ""), ("qdq_s8", "s8"), ("qdq_u8", "u8")):
        onnx.save(_graph(micro, flavour, opset).model(), str(folder / f"{file}.onnx"))
    facts = {"schema": 1, "arch": f"microbench-{micro.name}", "size_multiple": SIZE_MULTIPLE, "opset": opset}
    (folder / "model.json").write_text(json.dumps({**facts, "precisions": ["fp32", "int8"]}, indent=1) + "\n", encoding="utf-8")
    (folder / "quantization.json").write_text('{"activations": {}, "weights": {}}\n', encoding="utf-8")
    return folder


def _graph(micro: Micro, flavour: str, opset: int) -> Graph:
    g = Graph(flavour, opset)
    x = g.space_to_depth("lq", micro.unshuffle) if micro.unshuffle > 1 else "lq"
    stem = ACTIVATIONS[micro.activation if micro.kind == "none" else "relu"]
    x = g.conv(g.quantized(x, signed=False), 3 * micro.unshuffle**2, micro.channels, 3, activation=stem)
    for _ in range(0 if micro.kind == "none" else micro.repeat):
        x = _body(g, x, micro)
    x = g.conv(x, micro.channels, 3 * micro.unshuffle**2, 3)
    g.output(g.plain_add("lq", g.depth_to_space(x, micro.unshuffle) if micro.unshuffle > 1 else x))
    return g


def _body(g: Graph, x: str, micro: Micro) -> str:
    """One repetition."""
    c, k, act = micro.channels, micro.kernel, ACTIVATIONS[micro.activation]
    if micro.kind in ("resize", "skip", "deconv"):
        return _down_and_up(g, x, micro)
    bodies: dict[str, Callable[[], str]] = {
        "dense": lambda: g.conv(x, c, c, k, activation=act),
        "pointwise": lambda: g.conv(g.conv(x, c, 2 * c, 1, activation=act), 2 * c, c, 1),
        "depthwise": lambda: g.conv(x, c, c, k, groups=c, activation=act),
        "add": lambda: g.add(x, g.conv(x, c, c, 1)),
        "concat": lambda: g.conv(g.concat(x, g.conv(x, c, c, 1, activation=act)), 2 * c, c, 1, activation=act),
        "se": lambda: g.conv(g.squeeze_excite(x, c, max(8, c // 4)), c, c, 1),
    }
    return bodies[micro.kind]()


def _down_and_up(g: Graph, x: str, micro: Micro) -> str:
    c = micro.channels
    down = g.conv(x, c, c, 3, stride=2, activation=ACTIVATIONS[micro.activation])
    if micro.kind == "deconv":
        return g.deconv(down, c, c)
    up = g.resize(g.conv(down, c, c, 1), micro.mode)
    return g.add(x, up) if micro.kind == "skip" else up
