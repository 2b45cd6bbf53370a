"""A network of the user's own, with operators that neither a kernel nor a rule fits: schedules are searched for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from compile.tvm import BACKEND
from eval.session import BuildRequest, open_session
from pipeline.errors import UsageError
from pipeline.target import load_target

SIZE = (24, 32)


def own_network(path: Path) -> None:
    """A dilated convolution, GELU, a shuffle of channels in five dimensions, softmax, a transposed 4x4 convolution, a mean; a residual."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(8, 3, 3, 3)) / 5,
        "t": rng.normal(size=(8, 3, 4, 4)) / 5,
        **{"half": np.array(0.5), "one": np.array(1.0), "root": np.array(2**-0.5)},
    }
    shapes = {"five": [1, 2, 4, *SIZE], "four": [1, 8, *SIZE]}
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    constants += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["lq", "a"], ["y"], dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Mul", ["y", "root"], ["y1"]),
        helper.make_node("Erf", ["y1"], ["y2"]),
        helper.make_node("Add", ["y2", "one"], ["y3"]),
        helper.make_node("Mul", ["y", "y3"], ["y4"]),
        helper.make_node("Mul", ["y4", "half"], ["gelu"]),
        helper.make_node("Reshape", ["gelu", "five"], ["z"]),
        helper.make_node("Transpose", ["z"], ["z1"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["z1", "four"], ["z2"]),
        helper.make_node("Softmax", ["z2"], ["s"], axis=1),
        helper.make_node("ConvTranspose", ["s", "t"], ["u"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("AveragePool", ["u"], ["v"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Add", ["lq", "v"], ["restored"]),
    ]
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}.{i}"
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *SIZE]) for name in ("lq", "restored")]
    graph = helper.make_graph(nodes, "own", image[:1], image[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("own") / "folder"))
    own_network(out / "float.onnx")
    return out


def test_no_operator_is_left_as_plain_loops(folder: Path, tmp_path: Path):
    request = BuildRequest(folder, "fp32", *SIZE, load_target("host"), tmp_path, for_host=True, options={"searches": 2})
    built = BACKEND.build(request)
    assert built.facts["unscheduled"] == []
    assert any("conv2d_transpose" in name for name in built.facts["searched"])
    lq = np.random.default_rng(1).random((1, 3, *SIZE), np.float32)
    want = OnnxSession(folder / "float.onnx").run(lq)
    with open_session(built.path, built.facts, 1) as session:
        assert output_psnr(session.run(lq), want) > 60
    assert np.abs(want - lq).max() > 1e-2


def test_another_cpu_gets_schedules_too(folder: Path, tmp_path: Path):
    built = BACKEND.build(BuildRequest(folder, "fp32", *SIZE, load_target("raspberry-pi-5"), tmp_path, options={"searches": 1}))
    assert built.facts["unscheduled"] == []
    assert any("conv2d_transpose" in name for name in built.facts["searched"])


def test_the_number_of_searches_is_checked(folder: Path, tmp_path: Path):
    request = BuildRequest(folder, "fp32", *SIZE, load_target("host"), tmp_path, for_host=True, options={"searches": 0})
    with pytest.raises(UsageError, match="searches"):
        BACKEND.build(request)
