"""Kernels alone, in every form of the dot product that this CPU can run, against sums computed with numpy."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import pytest

from compile.tvm.cpu import Cpu, cpu_of
from compile.tvm.host import lacking
from compile.tvm.kernels.conv import Conv, Tile, blocks, build_conv, format_of, in_halves, pack
from compile.tvm.kernels.depthwise import Depthwise, build_depthwise, pack_depthwise
from compile.tvm.kernels.finish import Finish
from compile.tvm.kernels.tensors import SLACK, Number, Place, pieces
from compile.tvm.tiles import Tiles, shape_of

X86 = {"vnni512": "cascadelake", "vnni256": "alderlake", "avx2": "haswell", "plain": "x86-64-v2"}


def target(mcpu: str) -> Any:
    import tvm

    kind = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": mcpu, "mattr": []}
    if platform.machine() != "x86_64" or lacking(kind):
        pytest.skip(f"this CPU does not run code for {mcpu}")
    return tvm.target.Target(kind)


def run(function: Any, built_for: Any, arrays: list[np.ndarray]) -> np.ndarray:
    import tvm

    library = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=built_for)
    given = [tvm.runtime.tensor(a) for a in arrays]
    library["main"](*given)
    return given[-1].numpy()


def line(image: np.ndarray, place: Place) -> np.ndarray:
    """A packed tensor of an image [H, W, C], its border at the zero point."""
    pad = place.pad
    full = np.full((place.height + 2 * pad, place.width + 2 * pad, place.channels), place.number.zero, place.number.dtype)
    full[pad : pad + place.height, pad : pad + place.width] = image
    return np.append(full.reshape(-1), np.zeros(SLACK, full.dtype))


def sums(image: np.ndarray, weight: np.ndarray, place: Place, stride: int, height: int, width: int) -> np.ndarray:
    """Convolution of an image [H, W, C] in steps, float64 [H, W, O]; weight [O, I, K, K], I = 1 for depthwise."""
    steps = np.pad(image.astype(np.float64) - place.number.zero, ((place.pad,) * 2, (place.pad,) * 2, (0, 0)))
    out = np.zeros((height, width, len(weight)))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = steps[i : i + stride * height : stride, j : j + stride * width : stride][:height, :width]
            out += part * weight[:, 0, i, j] if weight.shape[1] == 1 else part @ weight[:, :, i, j].T.astype(np.float64)
    return out


def sample(place: Place, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (place.height, place.width, place.channels)
    if place.number.is_float:
        return rng.random(shape, np.float32) - np.float32(0.5)
    info = np.iinfo(place.number.dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(place.number.dtype)


CASES = [(3, 1, 12, 24), (3, 2, 16, 40), (1, 1, 20, 12), (5, 1, 8, 16)]


@pytest.mark.parametrize("form", X86)
@pytest.mark.parametrize(("kernel", "stride", "inputs", "outputs"), CASES)
def test_integer_convolutions_are_exact(form: str, kernel: int, stride: int, inputs: int, outputs: int):
    built_for = target(X86[form])
    cpu = cpu_of(built_for)
    assert cpu.form == form
    source = Place(9 * stride, 11 * stride, inputs, Number(cpu.activation, 0.05, 128), kernel // 2)
    out = Place(9, 11, outputs, Number(cpu.activation, 0.07, 3), 1)
    conv = Conv(source, outputs, kernel, stride, kernel // 2, Finish("relu", out.number, out))
    lanes = format_of(conv, cpu).lanes
    rng, total = np.random.default_rng(1), -(-outputs // lanes) * lanes
    weight = rng.integers(-127, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
    weight[0] = 127  # the largest sums there are: nothing may saturate on the way
    bias, multiplier = np.zeros(total, np.int32), np.full(total, 3e-4, np.float32)
    bias[:outputs] = rng.integers(-999, 999, outputs) - 128 * weight.astype(np.int32).sum((1, 2, 3))
    image = sample(source, 2)
    arrays = [line(image, source), pack(weight, source, lanes, 2), bias, multiplier, np.zeros(out.size, out.number.dtype)]
    got = run(build_conv(conv, cpu, Tile(4, 2)), built_for, arrays)
    exact = sums(image, weight, source, stride, 9, 11) + bias[:outputs] + 128 * weight.astype(np.int64).sum((1, 2, 3))
    want = np.clip(np.rint(exact.astype(np.float32) * np.float32(3e-4)), 0, 252).astype(np.uint8) + np.uint8(3)
    assert np.array_equal(got[: -SLACK or None], line(want, out)[:-SLACK])  # the border too
    assert len(np.unique(want)) > 20


@pytest.mark.parametrize("form", X86)
@pytest.mark.parametrize(("kernel", "stride", "channels"), [(3, 1, 24), (3, 2, 40), (5, 1, 12)])
def test_integer_depthwise_convolutions_are_exact(form: str, kernel: int, stride: int, channels: int):
    built_for = target(X86[form])
    cpu = cpu_of(built_for)
    source = Place(7 * stride, 10 * stride, channels, Number(cpu.activation, 0.05, 128), kernel // 2)
    out = Place(7, 10, channels, Number(cpu.activation, 0.07, 128))
    conv = Depthwise(source, kernel, stride, kernel // 2, Finish("", out.number, out))
    total = -(-channels // cpu.lanes) * cpu.lanes
    weight = np.random.default_rng(1).integers(-127, 128, (channels, 1, kernel, kernel)).astype(np.int8)
    bias, multiplier = np.zeros(total, np.int32), np.full(total, 2e-3, np.float32)
    bias[:channels] = -128 * weight.astype(np.int32).sum((1, 2, 3))
    image = sample(source, 2)
    arrays = [line(image, source), pack_depthwise(weight, source, cpu.lanes), bias, multiplier, np.zeros(out.size, np.uint8)]
    got = run(build_depthwise(conv, cpu, Tile(4, 1)), built_for, arrays)
    exact = sums(image, weight, source, stride, 7, 10).astype(np.float32)
    want = (np.clip(np.rint(exact * np.float32(2e-3)), -128, 127) + 128).astype(np.uint8)
    assert np.array_equal(got[:-SLACK], line(want, out)[:-SLACK])


@pytest.mark.parametrize("form", ["vnni512", "avx2", "plain"])
def test_float_convolutions_add_what_they_are_given(form: str):
    built_for = target(X86[form])
    cpu = cpu_of(built_for)
    source, other, out = Place(6, 13, 10, Number(), 1), Place(6, 13, 21, Number(), 0), Place(6, 13, 21, Number(), 2)
    conv = Conv(source, 21, 3, 1, 1, Finish("", Number(), out, other))
    lanes = format_of(conv, cpu).lanes
    weight = np.random.default_rng(1).random((21, 10, 3, 3), np.float32) - np.float32(0.5)
    bias = np.zeros(-(-21 // lanes) * lanes, np.float32)
    image, added = sample(source, 2), sample(other, 3)
    arrays = [line(image, source), pack(weight, source, lanes, 2), bias, line(added, other), np.zeros(out.size, np.float32)]
    got = run(build_conv(conv, cpu, Tile(4, 2)), built_for, arrays)
    want = line((sums(image, weight, source, 1, 6, 13) + added).astype(np.float32), out)
    assert np.abs(got - want)[:-SLACK].max() < 1e-5


def test_nan_survives_a_float_kernel():
    built_for = target("haswell")
    source, out = Place(4, 4, 4, Number(), 0), Place(4, 4, 8, Number(), 0)
    conv = Conv(source, 8, 1, 1, 0, Finish("", Number(), out))
    image = np.full((4, 4, 4), np.nan, np.float32)
    arrays = [line(image, source), np.ones(32, np.float32), np.zeros(8, np.float32), np.zeros(out.size, np.float32)]
    assert np.isnan(run(build_conv(conv, cpu_of(built_for), Tile(4, 1)), built_for, arrays)[:-SLACK]).all()


@pytest.mark.parametrize(("count", "lanes"), [(64, 16), (40, 16), (7, 16), (0, 16)])
def test_pieces_cover_everything_once(count: int, lanes: int):
    covered = [first + i * n + k for n, first, times in pieces(count, lanes) for i in range(times) for k in range(n)]
    assert covered == list(range(count))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(("total", "size"), [(12, 4), (13, 4), (3, 4), (4, 4), (1, 1)])
def test_blocks_cover_everything_once(total: int, size: int, apart: bool):
    found = list(blocks(total, size, last_apart=apart))
    assert [first + i * n + k for n, first, times in found for i in range(times) for k in range(n)] == list(range(total))
    assert found[-1][2] == 1 or not apart


def test_halves_of_words_lie_apart():
    words = np.arange(32)  # two vectors of four words
    want = [0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15]
    assert in_halves(words, 4).tolist() == [*want, *(16 + i for i in want)]


def test_tiles_fill_the_registers_and_known_ones_win():
    cpu = Cpu("znver5", "vnni512", 16, 32, "uint8")
    place = Place(64, 64, 64, Number("uint8", 0.1, 0), 1)
    conv = Conv(place, 64, 3, 1, 1, Finish("relu", place.number, place))
    assert Tiles(cpu).dense(conv) == Tile(6, 4)
    assert shape_of(conv) == "int8 3x3s1 64-64 w64"
    assert Tiles(cpu, {shape_of(conv): Tile(3, 2)}).dense(conv) == Tile(3, 2)
    arm = Cpu("cortex-a76", "sdot", 4, 32, "int8", by_lane=True)
    assert Tiles(arm).dense(conv) == Tile(4, 4)
