"""Kernels for aarch64, executed under emulation of a core: the integers that numpy computes, floats within their precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compile.tvm.cpu import cpu_of
from compile.tvm.kernels.conv import Conv, Tile, build_conv, format_of, pack
from compile.tvm.kernels.depthwise import Depthwise, build_depthwise, pack_depthwise
from compile.tvm.kernels.elementwise import build_add
from compile.tvm.kernels.finish import Activation, Finish
from compile.tvm.kernels.resize import build_resize
from compile.tvm.kernels.tensors import SLACK, Number, Place
from tests.compile.emulated import call, program, target
from tests.compile.test_tvm_kernels import line, sample, sums

CORES = {"cortex-a76": ("+dotprod", "+fullfp16"), "cortex-a72": ()}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("kernel", "inputs", "outputs", "activation"), [(3, 12, 24, "relu"), (1, 16, 20, "relu6"), (1, 20, 16, "")])
def test_integer_convolutions_are_exact(core: str, kernel: int, inputs: int, outputs: int, activation: Activation, tmp_path: Path):
    built_for = target(core, *CORES[core])
    cpu = cpu_of(built_for)
    source = Place(5, 11, inputs, Number("int8", 0.05, 0), kernel // 2)
    out = Place(5, 11, outputs, Number("int8", 0.07, 0), 1)
    conv = Conv(source, outputs, kernel, 1, kernel // 2, Finish(activation, out.number, out, neon=cpu.neon))
    rng, lanes = np.random.default_rng(1), format_of(conv, cpu).lanes
    weight = rng.integers(-127, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
    weight[0] = 127  # the largest sums there are: nothing may saturate on the way
    total = -(-outputs // lanes) * lanes
    bias, multiplier = np.zeros(total, np.int32), np.full(total, 3e-3, np.float32)
    bias[:outputs] = rng.integers(-999, 999, outputs)
    image = sample(source, 2)
    arrays = [line(image, source), pack(weight, source, lanes, 2, cpu.dot.halves), bias, multiplier, np.zeros(out.size, np.int8)]
    got = call(program(build_conv(conv, cpu, Tile(4, 2)), built_for, tmp_path), core, arrays)
    exact = np.rint((sums(image, weight, source, 1, 5, 11) + bias[:outputs]).astype(np.float32) * np.float32(3e-3))
    low, high = (0 if activation else -128), (round(6 / 0.07) if activation == "relu6" else 127)
    want = np.clip(exact, low, high).astype(np.int8)
    assert np.array_equal(got[:-SLACK], line(want, out)[:-SLACK])  # the border too
    assert want.min() == low
    assert want.max() == high


@pytest.mark.parametrize("core", CORES)
def test_integer_depthwise_convolutions_are_exact(core: str, tmp_path: Path):
    built_for = target(core, *CORES[core])
    cpu = cpu_of(built_for)
    source, out = Place(5, 9, 20, Number("int8", 0.05, 0), 1), Place(5, 9, 20, Number("int8", 0.07, 0))
    conv = Depthwise(source, 3, 1, 1, Finish("", out.number, out, neon=cpu.neon))
    weight = np.random.default_rng(1).integers(-127, 128, (20, 1, 3, 3)).astype(np.int8)
    image = sample(source, 2)
    constants = [pack_depthwise(weight, source, cpu.lanes, cpu.dot.halves), np.zeros(20, np.int32), np.full(20, 4e-3, np.float32)]
    arrays = [line(image, source), *constants, np.zeros(out.size, np.int8)]
    got = call(program(build_depthwise(conv, cpu, Tile(2, 1)), built_for, tmp_path), core, arrays)
    want = np.clip(np.rint(sums(image, weight, source, 1, 5, 9).astype(np.float32) * np.float32(4e-3)), -128, 127).astype(np.int8)
    assert np.array_equal(got[:-SLACK], line(want, out)[:-SLACK])


def test_a_zero_point_is_added_after_rounding(tmp_path: Path):
    built_for = target("cortex-a72")
    a, out = Place(3, 7, 12, Number("int8", 0.5, 4)), Place(3, 7, 12, Number("uint8", 0.75, 100))
    image = sample(a, 1)
    arrays = [line(image, a), line(image[::-1], a), np.zeros(out.size, np.uint8)]
    got = call(program(build_add(a, a, out, neon=True), built_for, tmp_path), "cortex-a72", arrays)
    steps = (image.astype(np.float32) - 4) * np.float32(0.5 / 0.75)
    want = np.clip(np.rint(steps + steps[::-1]) + 100, 0, 255).astype(np.uint8)
    assert np.abs(got[:-SLACK].astype(int) - line(want, out)[:-SLACK]).max() <= 1  # a multiply-add rounds once, numpy twice
    assert {0, 255} <= set(got[:-SLACK].tolist())


def added(value: np.ndarray, grid: Number, other: np.ndarray, place: Place, out: Number) -> np.ndarray:
    """Real steps of ``grid`` and a stored tensor -> what is stored for their sum: rounded, clamped, added, rounded, clamped."""
    steps = np.clip(np.rint(value), -128, 127).astype(np.float32) * np.float32(grid.scale / out.scale)
    total = steps + other.astype(np.float32) * np.float32(place.number.scale / out.scale)
    return np.clip(np.rint(total), -128, 127).astype(np.int8)


def doubled(image: np.ndarray) -> np.ndarray:
    """Integers [H, W, C] -> [2 H, 2 W, C], bilinear with half-pixel centres, a half going to the even neighbour."""
    total = image.astype(np.int64)
    for axis in (0, 1):
        at = np.arange(2 * total.shape[axis])
        near, far = at // 2, np.clip(at // 2 + at % 2 * 2 - 1, 0, total.shape[axis] - 1)
        total = 3 * total.take(near, axis) + total.take(far, axis)
    return np.rint(total / 16)


def test_an_integer_convolution_clamps_before_it_adds(tmp_path: Path):
    built_for = target("cortex-a76", *CORES["cortex-a76"])
    cpu = cpu_of(built_for)
    grid = Number("int8", 0.04, 0)
    source, other, out = (Place(5, 9, c, Number("int8", scale, 0)) for c, scale in ((16, 0.05), (24, 0.03), (24, 0.06)))
    conv = Conv(source, 24, 1, 1, 0, Finish("", grid, out, other, neon=cpu.neon))
    weight = np.random.default_rng(1).integers(-127, 128, (24, 16, 1, 1)).astype(np.int8)
    image, more = sample(source, 2), sample(other, 3)
    constants = [pack(weight, source, 4, 2), np.zeros(24, np.int32), np.full(24, 8e-3, np.float32)]
    arrays = [line(image, source), *constants, line(more, other), np.zeros(out.size, np.int8)]
    got = call(program(build_conv(conv, cpu, Tile(4, 2)), built_for, tmp_path), "cortex-a76", arrays)[:-SLACK]
    exact = sums(image, weight, source, 1, 5, 9).astype(np.float32) * np.float32(8e-3)
    assert (np.abs(exact) > 128).mean() > 0.2
    want = line(added(exact, grid, more, other, out.number), out)[:-SLACK]
    assert np.abs(got.astype(int) - want).max() <= 1  # a multiply-add rounds once, numpy twice
    assert (got == want).mean() > 0.99


@pytest.mark.parametrize("scale", [0.05, 0.03], ids=["same grid", "another"])
def test_a_doubled_integer_image_adds_what_it_is_given(scale: float, tmp_path: Path):
    grid = Number("int8", scale, 0)
    source, other, out = Place(4, 5, 12, Number("int8", 0.05, 0)), Place(8, 10, 12, Number("int8", 0.07, 0)), Place(8, 10, 12, grid, 1)
    image, more = sample(source, 2), sample(other, 3)
    kernel = build_resize(source, "linear", Finish("", grid, out, other, neon=True))
    arrays = [line(image, source), line(more, other), np.zeros(out.size, np.int8)]
    got = call(program(kernel, target("cortex-a72"), tmp_path), "cortex-a72", arrays)[:-SLACK]
    steps = doubled(image).astype(np.float32) * np.float32(1 if scale == source.number.scale else source.number.scale / scale)
    want = line(added(steps, grid, more, other, out.number), out)[:-SLACK]
    assert np.abs(got.astype(int) - want).max() <= 1
    assert (got == want).mean() > 0.99


@pytest.mark.parametrize(("dtype", "core", "least"), [("float16", "cortex-a76", 60), ("float32", "cortex-a72", 120)])
def test_float_convolutions_add_what_they_are_given(dtype: str, core: str, least: float, tmp_path: Path):
    built_for = target(core, *CORES[core])
    cpu = cpu_of(built_for)
    number = Number(dtype)
    source, other, out = Place(4, 9, 24, number, 1), Place(4, 9, 16, number), Place(4, 9, 16, number)
    conv = Conv(source, 16, 3, 1, 1, Finish("relu", number, out, other, neon=cpu.neon))
    lanes = format_of(conv, cpu).lanes
    weight = ((np.random.default_rng(1).random((16, 24, 3, 3)) - 0.5) / 8).astype(dtype)
    image, added = sample(source, 2).astype(dtype), sample(other, 3).astype(dtype)
    arrays = [line(image, source), pack(weight, source, lanes, 2), np.zeros(16, dtype), line(added, other), np.zeros(out.size, dtype)]
    got = call(program(build_conv(conv, cpu, Tile(4, 2)), built_for, tmp_path), core, arrays)[:-SLACK].astype(np.float64)
    want = line(np.maximum(sums(image, weight, source, 1, 4, 9), 0) + added.astype(np.float64), out)[:-SLACK]
    assert 10 * np.log10(1 / np.mean((got - want) ** 2)) > least


def test_nan_survives_a_float_kernel(tmp_path: Path):
    built_for = target("cortex-a72")
    source, out = Place(4, 4, 4, Number(), 0), Place(4, 4, 8, Number(), 0)
    conv = Conv(source, 8, 1, 1, 0, Finish("relu6", Number(), out, neon=True))
    image = np.full((4, 4, 4), np.nan, np.float32)
    arrays = [line(image, source), np.ones(32, np.float32), np.zeros(8, np.float32), np.zeros(out.size, np.float32)]
    got = call(program(build_conv(conv, cpu_of(built_for), Tile(4, 1)), built_for, tmp_path), "cortex-a72", arrays)
    assert np.isnan(got[:-SLACK]).all()
