"""The file itself: what is written is read back, a changed parameter is found, and the arithmetic behind it is right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("ai_edge_litert", reason='pip install -e ".[litert]"')

from compile.litert import BACKEND, convolution
from compile.litert.backend import open_interpreter, partitions
from compile.litert.convolution import _before_hard_swish
from compile.litert.flatbuffer import Writer
from compile.litert.graph import Graph, Scale
from compile.litert.operators import translate
from compile.litert.readback import Readback
from compile.litert.translate import unit_scale
from compile.litert.weights import DENSE, DEPTHWISE, TRANSPOSED, channel_last, shuffled_order
from eval.session import BuildRequest, Built
from models.export import fix_size
from pipeline.target import load_target
from quantize.artifact import ModelFolder


@pytest.fixture(scope="module")
def built(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return BACKEND.build(BuildRequest(model_folder, "int8", 64, 64, load_target("host"), tmp_path_factory.mktemp("int8")))


def edited(folder: Path, tmp_path: Path, edit: Any) -> ModelFolder:
    """A copy of the model folder whose scales are changed."""
    copy = Path(shutil.copytree(folder, tmp_path / "edited"))
    content = json.loads((copy / "quantization.json").read_text())
    edit(content)
    (copy / "quantization.json").write_text(json.dumps(content))
    return ModelFolder(copy)


def nudged(value: float) -> float:
    return float(np.nextafter(np.float32(value), np.float32(9)))


def test_one_changed_activation_scale_is_found(built: Built, model_folder: Path, tmp_path: Path):
    name = next(iter(ModelFolder(model_folder).scales()["activations"]))

    def edit(content: Any) -> None:
        content["activations"][name]["scale"] = nudged(content["activations"][name]["scale"])

    assert BACKEND.differences(built, edited(model_folder, tmp_path, edit)) == [f"activation {name}"]


def test_one_changed_zero_point_is_found(built: Built, model_folder: Path, tmp_path: Path):
    name = next(iter(ModelFolder(model_folder).scales()["activations"]))

    def edit(content: Any) -> None:
        content["activations"][name]["non_negative"] = not content["activations"][name]["non_negative"]

    assert BACKEND.differences(built, edited(model_folder, tmp_path, edit)) == [f"activation {name}"]


def test_one_changed_weight_scale_and_a_tensor_that_is_not_there_are_found(built: Built, model_folder: Path, tmp_path: Path):
    name = next(iter(ModelFolder(model_folder).scales()["weights"]))

    def edit(content: Any) -> None:
        content["weights"][name]["scale"][-1] = nudged(content["weights"][name]["scale"][-1])
        content["activations"]["gone"] = {"scale": 1.0, "non_negative": True}

    assert BACKEND.differences(built, edited(model_folder, tmp_path, edit)) == ["activation gone", f"weight {name}"]


@pytest.mark.parametrize("name", ["head.weight", "stem.conv.weight"])
def test_one_changed_integer_is_found(built: Built, model_folder: Path, tmp_path: Path, name: str):
    """The head's filters stand in another order in the file: they are compared all the same."""
    data = bytearray(built.path.read_bytes())
    integers = Readback(built.path).constant(name)
    at = bytes(data).index(integers.tobytes())
    data[at] ^= 1
    other = tmp_path / "other.tflite"
    other.write_bytes(data)
    assert BACKEND.differences(Built(other, built.facts), ModelFolder(model_folder)) == [f"integers of weight {name}"]


def test_float_weights_are_no_int8_though_they_are_the_same_numbers(
    built: Built, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file with every scale of the activations, whose convolutions are computed in float."""
    folder, fixed = ModelFolder(model_folder), tmp_path / "fixed.onnx"
    fix_size(folder.qdq("u8"), fixed, 64, 64)
    monkeypatch.setattr(convolution, "_int8", lambda to, node, tail, scale: convolution._float(to, node, tail))
    other = tmp_path / "floats.tflite"
    other.write_bytes(translate(Graph(onnx.load(fixed))))
    weights = sorted(folder.scales()["weights"])
    found = BACKEND.differences(Built(other, built.facts), folder)
    assert sorted(found) == [f"weight {name} is float, and its convolution is not in the network" for name in weights]


def test_a_float_file_is_no_int8(built: Built, model_folder: Path, tmp_path: Path):
    plain = BACKEND.build(BuildRequest(model_folder, "fp32", 64, 64, load_target("host"), tmp_path))
    found, scales = BACKEND.differences(Built(plain.path, built.facts), ModelFolder(model_folder)), ModelFolder(model_folder).scales()
    assert {f"activation {name}" for name in scales["activations"]} < set(found)
    assert len(found) == len(scales["activations"]) + len(scales["weights"])


def test_constants_lie_on_16_bytes(built: Built):
    data = built.path.read_bytes()
    file = Readback(built.path)
    for name in ("head.weight", "stem.conv.weight", "stem.conv.weight.bias"):
        assert data.index(file.constant(name).tobytes()) % 16 == 0


def test_the_signature_names_input_and_output(built: Built):
    signature = open_interpreter(built.path, 1).get_signature_list()
    assert signature == {"serving_default": {"inputs": ["lq"], "outputs": ["restored"]}}


def small(tmp_path: Path, operators: list[str]) -> Path:
    """A chain of operators on [1, 4, 4, 3]."""
    writer = Writer()
    first = last = writer.tensor("lq", (1, 4, 4, 3))
    for k, kind in enumerate(operators):
        last = writer.operator(kind, [last], writer.tensor(f"t{k}", (1, 4, 4, 3)))
    path = tmp_path / "small.tflite"
    path.write_bytes(writer.finish({"lq": first}, {"restored": last}))
    return path


@pytest.mark.parametrize(
    ("operators", "pieces"),
    [
        (["RELU", "RELU6"], 1),
        (["RELU", "LOG_SOFTMAX"], 2),
        (["LOG_SOFTMAX", "RELU"], 2),
        (["RELU", "LOG_SOFTMAX", "RELU6"], 3),
        (["LOG_SOFTMAX"], 0),
    ],
)
def test_pieces_are_counted(tmp_path: Path, operators: list[str], pieces: int):
    """XNNPACK has no LOG_SOFTMAX: it runs by itself, as one piece more."""
    path = small(tmp_path, operators)
    assert partitions(open_interpreter(path, 1), Readback(path)) == pieces
    assert Readback(path).operators() == {name: operators.count(name) for name in sorted(set(operators))}


def test_shuffled_channels_are_pytorchs_shuffle():
    x = torch.arange(12 * 2 * 3.0).reshape(1, 12, 2, 3)
    want = F.pixel_shuffle(x, 2)[0].permute(1, 2, 0)
    cells = x[0, shuffled_order(12, 2)].permute(1, 2, 0).reshape(2, 3, 2, 2, 3)  # TensorFlow: row and column in the cell, then channel
    assert torch.equal(cells.permute(0, 2, 1, 3, 4).reshape(4, 6, 3), want)


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [(DENSE, (8, 4, 3, 5), "oyxi"), (DEPTHWISE, (8, 1, 3, 5), "iyxo"), (TRANSPOSED, (4, 8, 3, 5), "oyxi")],
)
def test_weights_are_channel_last(kind: str, shape: tuple[int, ...], axes: str):
    weight = np.arange(np.prod(shape)).reshape(shape)
    laid = channel_last(weight, kind)
    assert np.array_equal(laid, np.einsum(f"{'ioyx' if kind == TRANSPOSED else 'oiyx'}->{axes}", weight))
    assert laid.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(("low", "high", "zero"), [(0.0, 1.0, -128), (-1.0, 3.0, -64), (-3.0, 9.75, -68)])
def test_unit_scale_spans_the_range(low: float, high: float, zero: int):
    scale = unit_scale("x", low, high)
    assert scale.zero == zero
    ends = (np.asarray([-128, 127]) - scale.zero) * float(scale.scale)
    assert ends == pytest.approx([low, high], abs=float(scale.scale))


@pytest.mark.parametrize("y", [1e-3, 0.5, 2.999, 3.0, 7.0])
def test_before_hard_swish_is_its_inverse(y: float):
    assert float(F.hardswish(torch.tensor(_before_hard_swish(y), dtype=torch.float64))) == pytest.approx(y)


def test_scales_are_the_same_when_value_and_zero_are():
    a = Scale("a", np.asarray(0.5, np.float32), 0)
    assert a.same(Scale("b", np.asarray(0.5, np.float32), 0))
    assert not a.same(Scale("b", np.asarray(0.5, np.float32), 1))
    assert not a.same(Scale("b", np.asarray(0.25, np.float32), 0))
