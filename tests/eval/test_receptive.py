from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from eval.receptive import Receptive, receptive_field
from models.arch import build, load_arch
from models.export import export_onnx, fix_size
from models.fold import fold_batchnorm
from models.spec import size_multiple
from pipeline.errors import StageFailed

THREE = {"widths": (4, 6, 8), "depths": (1, 1, 1), "se_from": 9}
FOUR = {"widths": (2, 3, 4, 5), "depths": (0, 1, 1, 1), "se_from": 9}
STUDENTS = {
    "three": THREE,
    "three-se": {**THREE, "se_from": 1},
    "three-nearest-concat": {**THREE, "upsample": "nearest", "skip": "concat"},
    "three-deconv": {**THREE, "upsample": "deconv", "kernels": (3, 5, 3)},
    "three-no-unshuffle": {**THREE, "unshuffle": 1, "stem_kernel": 5},
    "three-unshuffle-4": {**THREE, "unshuffle": 4, "head_kernel": 1, "high_scales": 0},
    "four": {**FOUR, "unshuffle": 1},
    "four-se-concat": {**FOUR, "unshuffle": 1, "se_from": 2, "skip": "concat", "activation": "hardswish"},
    "four-deconv": {**FOUR, "unshuffle": 1, "upsample": "deconv", "kernels": (3, 3, 1, 3)},
}
OTHERS = {
    "nafnet": ("nafnet", {"width": 2, "enc_blk_nums": (1, 1), "middle_blk_num": 1, "dec_blk_nums": (1, 1)}),
    "mimounet": ("mimounet", dict(load_arch("mimounet").small)),
}


def legible(module: nn.Module, grey: float = 0) -> nn.Module:
    """All weights positive and all biases zero: on a black image everything is 0, and a lit pixel shows wherever it is looked at.

    The biases in front of a gate are the exception: they open it. What a gate gathers from the whole image is multiplied by that 0.
    For an image of another grey, weights are such that values stay of one magnitude.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            gate = float(".se." in name or ".sca." in name)
            weight = (torch.rand_like(parameter) + 0.5) / (max(1, parameter[0].numel()) if grey else 1)
            parameter.copy_(torch.full_like(parameter, gate) if name.endswith("bias") else weight)
    return module.eval()


def exported(module: nn.Module, path: Path) -> Path:
    export_onnx(fold_batchnorm(module), path)
    return path


def measured(path: Path, side: int, multiple: int, axis: int, grey: float) -> np.ndarray:
    """bool [input pixel, output pixel]: lights every row (or column) of a uniform image in turn and looks where something changes."""
    fix_size(path, path.with_name("probe.onnx"), *((side, multiple * 4) if axis == 2 else (multiple * 4, side)))
    session = onnxruntime.InferenceSession(str(path.with_name("probe.onnx")), providers=["CPUExecutionProvider"])
    uniform = np.full(session.get_inputs()[0].shape, grey, np.float32)
    before, seen = session.run(None, {"lq": uniform})[0], np.zeros((side, side), bool)
    for pixel in range(side):
        lq = uniform.copy()
        lq[(0, slice(None), pixel) if axis == 2 else (0, slice(None), slice(None), pixel)] = 1e8 if grey else 1
        seen[pixel] = (session.run(None, {"lq": lq})[0] != before).any(axis=(0, 1, 5 - axis))
    return seen


def check(path: Path, multiple: int, grey: float = 0) -> Receptive:
    """What is computed is what is measured, in all four directions."""
    found = receptive_field(path, multiple)
    side = -(-(3 * found.halo + 24) // multiple) * multiple
    for axis, computed in ((2, found.reach[:2]), (3, found.reach[2:])):
        seen = measured(path, side, multiple, axis, grey)
        lit, looked = np.nonzero(seen)
        middle = (looked >= side // 3 // multiple * multiple) & (looked < side - side // 3)
        before, behind = (looked - lit)[middle].max(), (lit - looked)[middle].max()
        assert (before, behind) == computed
        assert max(before, behind) < side // 3, "the image is too small to measure it"
    assert found.halo == max(found.reach)
    return found


@pytest.mark.parametrize("name", STUDENTS)
def test_students_see_what_they_are_computed_to_see(name, tmp_path):
    module = legible(build("student", STUDENTS[name]))
    multiple = size_multiple(module)
    found = check(exported(module, tmp_path / "net.onnx"), multiple)
    gates = sum(block["se"] > 0 for scale in load_arch("student").config_of(module)["network"]["encoder"] for block in scale)
    gates += sum(block["se"] > 0 for s in load_arch("student").config_of(module)["network"]["decoder"] for block in s["blocks"])
    assert [o.op for o in found.whole] == ["GlobalAveragePool"] * gates
    assert all("/se/pool/" in o.name for o in found.whole)
    assert (gates > 0) == ("-se" in name)


@pytest.mark.parametrize("name", OTHERS)
def test_teachers_see_what_they_are_computed_to_see(name, tmp_path):
    arch, config = OTHERS[name]
    grey = 0 if arch == "nafnet" else 1  # MIMO-UNet multiplies branches: on black, one hides what the other sees
    module = legible(build(arch, config), grey)
    found = check(exported(module, tmp_path / "net.onnx"), size_multiple(module), grey)
    assert {o.op for o in found.whole} == ({"GlobalAveragePool"} if arch == "nafnet" else set())


class Drawing:
    """A random U-shaped ONNX graph of two channels, every operator drawn; all weights 1."""

    def __init__(self, draw: Callable[[Any], Any], depth: int) -> None:
        self.draw, self.nodes, self.weights = draw, [], []
        self.end = self.node("Identity", [self.level("lq", 3, depth)])

    def node(self, op: str, inputs: list[str], **attrs: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attrs))
        return name

    def constant(self, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(value, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, x: str, incoming: int, out: int = 2, kernel: int = 1, **attrs: object) -> str:
        return self.node("Conv", [x, self.constant(np.ones((out, incoming, kernel, kernel), np.float32))], **attrs)

    def body(self, x: str, incoming: int) -> str:
        kernel, dilation = self.draw(st.sampled_from([1, 2, 3, 5])), self.draw(st.sampled_from([1, 1, 2]))
        total = (kernel - 1) * dilation
        top, left = self.draw(st.integers(0, total)), self.draw(st.integers(0, total))
        return self.conv(x, incoming, kernel=kernel, dilations=[dilation] * 2, pads=[top, left, total - top, total - left])

    def resize(self, x: str, scale: float) -> str:
        mode = self.draw(st.sampled_from(["nearest", "linear", "cubic"]))
        coordinates = self.draw(st.sampled_from(["half_pixel", "asymmetric"]))
        nearest = self.draw(st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]))
        scales = self.constant(np.array([1, 1, scale, scale], np.float32))
        attrs = {"nearest_mode": nearest} if mode == "nearest" else {}
        return self.node("Resize", [x, "", scales], mode=mode, coordinate_transformation_mode=coordinates, **attrs)

    def down(self, x: str) -> str:
        how = self.draw(st.sampled_from(["conv", "pool", "depth", "resize"]))
        if how == "conv":
            kernel = self.draw(st.sampled_from([2, 3, 4, 5]))
            return self.conv(x, 2, kernel=kernel, strides=[2, 2], pads=[(kernel - 2) // 2] * 2 + [(kernel - 1) // 2] * 2)
        if how == "pool":
            return self.node(self.draw(st.sampled_from(["MaxPool", "AveragePool"])), [x], kernel_shape=[2, 2], strides=[2, 2])
        return self.conv(self.node("SpaceToDepth", [x], blocksize=2), 8) if how == "depth" else self.resize(x, 0.5)

    def up(self, x: str) -> str:
        how = self.draw(st.sampled_from(["deconv", "depth", "resize"]))
        if how == "deconv":
            kernel = self.draw(st.sampled_from([2, 3, 4]))
            weight = self.constant(np.ones((2, 2, kernel, kernel), np.float32))
            pads, more = {2: ([0] * 4, 0), 3: ([1] * 4, 1), 4: ([1] * 4, 0)}[kernel]
            return self.node("ConvTranspose", [x, weight], strides=[2, 2], pads=pads, output_padding=[more] * 2)
        mode = self.draw(st.sampled_from(["DCR", "CRD"]))
        return self.node("DepthToSpace", [self.conv(x, 2, 8)], blocksize=2, mode=mode) if how == "depth" else self.resize(x, 2)

    def level(self, x: str, incoming: int, depth: int) -> str:
        x = self.body(x, incoming)
        if depth == 0:
            return x
        inner = self.up(self.level(self.down(x), 2, depth - 1))
        if self.draw(st.booleans()):
            return self.node("Add", [x, inner])
        return self.conv(self.node("Concat", [x, inner], axis=1), 4)

    def save(self, path: Path) -> Path:
        write_graph(path, self.nodes, self.weights, self.end, 2)
        return path


def write_graph(path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], end: str, channels: int) -> None:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, "height", "width"]) for n, c in (("lq", 3), (end, channels))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), depth=st.integers(0, 2))
def test_random_graphs_see_what_they_are_computed_to_see(data, depth, tmp_path_factory):
    path = Drawing(data.draw, depth).save(tmp_path_factory.mktemp("graph") / "net.onnx")
    assert check(path, 2**depth).whole == ()


def one(path: Path, op: str, *constants: np.ndarray, **attrs: object) -> Receptive:
    """A network of a 3x3 convolution, one operator, and the input added."""
    weights = [numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "k")]
    weights += [numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(constants)]
    conv = helper.make_node("Conv", ["lq", "k"], ["a"], pads=[1, 1, 1, 1])
    last = [
        helper.make_node(op, ["a", *(w.name for w in weights[1:])], ["b"], "the_one", **attrs),
        helper.make_node("Add", ["a", "b"], ["c"]),
    ]
    write_graph(path, [conv, *last], weights, "c", 3)
    return receptive_field(path)


@pytest.mark.parametrize(
    ("op", "constants", "attrs"),
    [
        ("GlobalAveragePool", [], {}),
        ("GlobalMaxPool", [], {}),
        ("ReduceMean", [], {"axes": [2, 3]}),
        ("ReduceMean", [], {"axes": [3]}),
        ("ReduceSum", [np.array([-1, -2])], {}),
        ("InstanceNormalization", [np.ones(3, np.float32), np.zeros(3, np.float32)], {}),
        ("Softmax", [], {"axis": 2}),
        ("CumSum", [np.array(3)], {}),
    ],
)
def test_operations_over_the_image_are_named_and_leave_the_rest_local(op, constants, attrs, tmp_path):
    found = one(tmp_path / "net.onnx", op, *constants, **attrs)
    assert (found.halo, [(o.op, o.why) for o in found.whole]) == (1, [(op, "it draws on the whole image")])
    assert str(found) == f"every pixel depends on 1 pixels around it; 1 x {op} draws on the whole image"


@pytest.mark.parametrize(("op", "attrs"), [("ReduceMean", {"axes": [1]}), ("Softmax", {"axis": 1}), ("Relu", {})])
def test_operations_over_channels_are_local(op, attrs, tmp_path):
    found = one(tmp_path / "net.onnx", op, **attrs)
    assert (found.halo, found.whole) == (1, ())


def test_what_is_not_understood_is_named_not_guessed(tmp_path):
    found = one(tmp_path / "net.onnx", "Trilu")
    assert [(o.op, o.why) for o in found.whole] == [("Trilu", "it is not known where its values come from")]
    assert found.halo == 1


def test_a_large_weight_may_be_computed_from_constants(tmp_path):
    weights = [numpy_helper.from_array(np.ones((3, 5, 5, 64), np.int8), "integers")]
    weights += [numpy_helper.from_array(value, name) for name, value in (("scale", np.float32(0.1)), ("zero", np.int8(0)))]
    nodes = [
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["last"]),
        helper.make_node("Transpose", ["last"], ["weight"], perm=[3, 0, 1, 2]),
        helper.make_node("Conv", ["lq", "weight"], ["wide"], pads=[2, 2, 2, 2]),
        helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[1]),
        helper.make_node("Add", ["lq", "mean"], ["restored"]),
    ]
    write_graph(tmp_path / "net.onnx", nodes, weights, "restored", 3)
    assert receptive_field(tmp_path / "net.onnx").reach == (2, 2, 2, 2)


def test_attention_over_the_image_is_global(tmp_path):
    class Attention(nn.Module):
        size_multiple = 4

        def forward(self, lq: torch.Tensor) -> torch.Tensor:
            flat = lq.flatten(2)
            return lq + (torch.softmax(flat.transpose(1, 2) @ flat, -1) @ flat.transpose(1, 2)).transpose(1, 2).reshape(lq.shape)

    export_onnx(Attention(), tmp_path / "net.onnx")
    found = receptive_field(tmp_path / "net.onnx", 4)
    whys = ["it relates more positions than can be followed one by one", "it draws on the whole image"]
    assert [(o.op, o.why) for o in found.whole] == [("MatMul", why) for why in whys]
    assert found.halo == 0


@pytest.mark.parametrize("axis", [1, 2])
def test_attention_over_rows_or_windows_is_told_apart(axis, tmp_path):
    class Rows(nn.Module):
        """Attention between the 4 pixels of a window in a row (axis 1), or between all of a row (axis 2)."""

        size_multiple = 4

        def forward(self, lq: torch.Tensor) -> torch.Tensor:
            n, c, h, w = lq.shape
            x = lq.reshape(n, c, h, w // 4, 4).permute(0, 2, 3, 4, 1) if axis == 1 else lq.permute(0, 2, 3, 1)
            y = torch.softmax(x @ x.transpose(-1, -2), -1) @ x
            return lq + (y.permute(0, 4, 1, 2, 3).reshape(lq.shape) if axis == 1 else y.permute(0, 3, 1, 2))

    export_onnx(Rows(), tmp_path / "net.onnx")
    found = receptive_field(tmp_path / "net.onnx", 4)
    assert found.reach == (0, 0, 3, 3) if axis == 1 else found.halo == 0
    assert ([o.op for o in found.whole] == []) == (axis == 1)


def test_aligned_corners_are_named(tmp_path):
    class Aligned(nn.Module):
        size_multiple = 2

        def forward(self, lq: torch.Tensor) -> torch.Tensor:
            small = nn.functional.avg_pool2d(lq, 2)
            return nn.functional.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True)

    export_onnx(Aligned(), tmp_path / "net.onnx")
    (found,) = receptive_field(tmp_path / "net.onnx", 2).whole
    assert (found.op, found.why) == ("Resize", "its corners are aligned: the weights depend on the image's size")


@pytest.mark.slow
def test_local_attention_is_local(tmp_path):
    network = build("nafnet", {"width": 2, "enc_blk_nums": (1,), "middle_blk_num": 1, "dec_blk_nums": (1,), "tlc": 16})
    export_onnx(network.eval(), tmp_path / "net.onnx")
    found = receptive_field(tmp_path / "net.onnx", 2)
    assert found.whole == ()
    assert 3 * 24 // 2 < found.halo < 3 * 24


def test_a_file_of_fixed_size_must_be_large_enough(tmp_path):
    module = build("student", THREE)
    export_onnx(module, tmp_path / "small.onnx", height=64, width=64)
    export_onnx(module, tmp_path / "large.onnx", height=256, width=264)
    export_onnx(module, tmp_path / "free.onnx")
    with pytest.raises(StageFailed, match=r"small.onnx: its input is fixed at 64x64, too small to follow how far it sees\nhint: give"):
        receptive_field(tmp_path / "small.onnx", 8)
    assert receptive_field(tmp_path / "large.onnx", 8) == receptive_field(tmp_path / "free.onnx", 8)


def test_another_output_than_an_image_is_refused(tmp_path):
    pool = helper.make_node("MaxPool", ["lq"], ["out"], kernel_shape=[2, 2], strides=[2, 2])
    write_graph(tmp_path / "net.onnx", [pool], [], "out", 3)
    with pytest.raises(StageFailed, match=r"tiles: the network returns .*, not an image of its input's size"):
        receptive_field(tmp_path / "net.onnx", 2)
