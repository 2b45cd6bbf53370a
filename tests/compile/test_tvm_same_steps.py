"""An int8 network for aarch64 against the same for this machine, step by step: each computes the same integers from the same integers.

The two come from different files: where a step ends in a ReLU, "u8" holds up to 255 steps and "s8" clips at 127. That alone makes whole
networks differ; with unsigned activations it does not happen.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from compile.tvm.assemble import assemble
from compile.tvm.cpu import Cpu, cpu_of
from compile.tvm.fuse import borders, fuse_sums
from compile.tvm.graph import Graph
from compile.tvm.kernels.tensors import Number
from compile.tvm.network import read_network
from compile.tvm.steps import FloatStep, Network, Step, Tensor
from compile.tvm.tiles import Tiles
from models.export import fix_size
from tests.compile.emulated import call, program, target
from tests.compile.networks import SMALL, write_model_folder
from tests.compile.test_tvm_int8 import host_target, pack, photo, unpack
from tests.compile.test_tvm_kernels import run

pytestmark = pytest.mark.slow

SIDE = 32
Values = Mapping[str, np.ndarray]


def network(folder: Path, cpu: Cpu, path: Path) -> Network:
    fix_size(folder / f"qdq_{cpu.flavour}.onnx", path, SIDE, SIDE)
    return fuse_sums(read_network(Graph(onnx.load(path)), cpu.activation, Number()))


def kernel(step: Step, cpu: Cpu, inputs: list[np.ndarray]) -> tuple[Any, list[np.ndarray]]:
    """A step's function and all its arrays."""
    alone = Network((step,), step.inputs, step.out)
    made, pads = assemble(alone, cpu, Tiles.shipped(cpu), 17), borders(alone)
    function = next(made.module[v] for v in made.module.get_global_vars() if v.name_hint.startswith("kernel"))
    given = [pack(v, t, pads.get(t.name, 0)) if isinstance(t, Tensor) else v for v, t in zip(inputs, step.inputs, strict=True)]
    out = function.params[-1]
    constants = [c for packed in made.constants for c in packed.constants]
    arrays = [given[0], *constants, *given[1:], np.zeros(tuple(int(d) for d in out.shape), str(out.dtype))]
    return function, [np.ascontiguousarray(a) for a in arrays]


def unpacked(line: np.ndarray, step: Step) -> np.ndarray:
    return unpack(line, step.out) if isinstance(step.out, Tensor) else line


def as_theirs(value: np.ndarray, ours: Any, theirs: Any) -> np.ndarray:
    """What an "s8" file holds for a value of a "u8" file: of a packed tensor of integers the same steps, of all else the same."""
    if not isinstance(ours, Tensor) or ours.number.dtype != "uint8":
        return value
    return np.clip(steps(value, ours) + theirs.number.zero, -128, 127).astype(np.int8)


def clipped(value: np.ndarray, ours: Any, theirs: Any) -> bool:
    """Whether a value passes in "u8" and not in "s8"."""
    packed = isinstance(ours, Tensor) and ours.number.dtype == "uint8"
    return packed and bool((steps(value, ours) > 127 - theirs.number.zero).any())


def steps(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    return value.astype(np.int64) - tensor.number.zero


A76 = ("cortex-a76", ("+dotprod", "+fullfp16"))


@pytest.mark.parametrize(
    ("core", "features", "config", "unsigned"),
    [
        (*A76, {}, False),
        ("cortex-a72", (), SMALL, False),
        ("carmel", (), SMALL, False),
        (*A76, SMALL, True),
        ("cortex-a72", (), SMALL, True),
    ],
)
def test_every_step_computes_the_same_integers(
    core: str, features: tuple[str, ...], config: Mapping[str, object], unsigned: bool, tmp_path: Path
):
    if platform.machine() != "x86_64":
        pytest.skip("compares aarch64 with x86_64")
    folder = write_model_folder(tmp_path / "folder", config, unsigned=unsigned)
    boards, host = target(core, *features), host_target()
    there, here = (network(folder, cpu_of(t), tmp_path / "fixed.onnx") for t in (boards, host))
    values, seen = {here.sources[0].name: photo(SIDE, SIDE)}, 0
    for theirs, ours in zip(there.steps, here.steps, strict=True):
        assert not isinstance(ours, FloatStep)
        inputs = [values[v.name] for v in ours.inputs]
        function, arrays = kernel(ours, cpu_of(host), inputs)
        values[ours.out.name] = unpacked(run(function, host, arrays), ours)
        same = [as_theirs(v, *pair) for v, *pair in zip(inputs, ours.inputs, theirs.inputs, strict=True)]
        if any(clipped(v, *pair) for v, *pair in zip(inputs, ours.inputs, theirs.inputs, strict=True)):
            assert not unsigned, ours.name
            continue
        function, arrays = kernel(theirs, cpu_of(boards), same)
        got = unpacked(call(program(function, boards, tmp_path), "max", arrays), theirs)
        want = as_theirs(values[ours.out.name], ours.out, theirs.out)
        assert np.array_equal(got, want), ours.name
        seen += 1
    assert seen > 15
