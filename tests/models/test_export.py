import onnx
import pytest
import torch
from torch import nn

from models.export import export_onnx, fix_size, opset_of
from pipeline.errors import StageFailed, UsageError
from tests.models.helpers import small


def shape(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("opset", [13, 15, 17])
def test_names_shapes_and_opset_of_the_written_file(opset, tmp_path):
    network = small("student").train()
    export_onnx(network, tmp_path / "new" / "free.onnx", opset)
    model = onnx.load(str(tmp_path / "new" / "free.onnx"))
    assert opset_of(model) == opset
    assert [v.name for v in model.graph.input] == ["lq"]
    assert [v.name for v in model.graph.output] == ["restored"]
    assert shape(model.graph.input[0]) == shape(model.graph.output[0]) == [1, 3, "height", "width"]
    assert network.training
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["free.onnx"]


def test_fixed_size(tmp_path):
    export_onnx(small("student"), tmp_path / "fixed.onnx", height=16, width=40)
    model = onnx.load(str(tmp_path / "fixed.onnx"))
    assert shape(model.graph.input[0]) == shape(model.graph.output[0]) == [1, 3, 16, 40]


def test_equal_networks_give_equal_files(tmp_path):
    for name in ("a", "b"):
        export_onnx(small("student"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("size", [(16, None), (None, 16), (12, 16), (16, 20), (0, 16)])
def test_sizes_that_the_network_does_not_take(size, tmp_path):
    with pytest.raises(UsageError, match=f"size {size[0]}x{size[1]}"):
        export_onnx(small("student"), tmp_path / "x.onnx", height=size[0], width=size[1])
    assert not list(tmp_path.iterdir())


def test_another_opset_than_asked_for_is_an_error(tmp_path, monkeypatch):
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: real(*a, **{**k, "opset_version": 16}))
    with pytest.raises(StageFailed, match="the written file has opset 16\nhint: opset 17 was asked for"):
        export_onnx(small("student"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_fixed_file_cannot_be_given_another_size(tmp_path):
    export_onnx(small("student"), tmp_path / "fixed.onnx", height=16, width=40)
    with pytest.raises(StageFailed, match="its input is fixed at 16x40\nhint: cannot make it 24x40"):
        fix_size(tmp_path / "fixed.onnx", tmp_path / "out.onnx", 24, 40)
    fix_size(tmp_path / "fixed.onnx", tmp_path / "out.onnx", 16, 40)
    assert (tmp_path / "out.onnx").exists()


class FakeQuantized(nn.Module):
    """One convolution with quantized input and weights, as the quantize stage writes them."""

    size_multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        x = torch.fake_quantize_per_tensor_affine(lq, 1 / 127, 0, -128, 127)
        scale = torch.full((3,), 0.01)
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, scale, torch.zeros(3, dtype=torch.int32), 0, -128, 127)
        return nn.functional.conv2d(x, weight, self.conv.bias, padding=1)


def test_fixing_the_size_keeps_the_quantization(tmp_path):
    export_onnx(FakeQuantized(), tmp_path / "q.onnx")
    fix_size(tmp_path / "q.onnx", tmp_path / "fixed.onnx", 16, 24)
    for path in ("q.onnx", "fixed.onnx"):
        ops = [node.op_type for node in onnx.load(str(tmp_path / path)).graph.node]
        assert ops.count("DequantizeLinear") == 2
        assert ops.count("QuantizeLinear") >= 1
