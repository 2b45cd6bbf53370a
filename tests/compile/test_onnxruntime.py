from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from compile.onnxruntime import BACKEND
from compile.onnxruntime.backend import OnnxSession
from compile.onnxruntime.half import to_half
from compile.parity import output_psnr
from eval.session import BuildRequest, open_session
from pipeline.errors import StageFailed
from pipeline.target import Target
from quantize.artifact import ModelFolder


@pytest.fixture
def request_(model_folder: Path, jetson: Target, tmp_path: Path) -> BuildRequest:
    return BuildRequest(model_folder, "fp32", 96, 96, jetson, tmp_path / "build")


@pytest.mark.parametrize(("precision", "name"), [("fp32", "float.onnx"), ("int8", "qdq_u8.onnx")])
def test_the_artifact_is_the_file_and_takes_any_size(request_: BuildRequest, precision: str, name: str):
    built = BACKEND.build(replace(request_, precision=precision))
    assert built.path.read_bytes() == (request_.model / name).read_bytes()
    assert (built.facts["height"], built.facts["runs_here"]) == (0, True)
    with open_session(built.path, built.facts, threads=2) as session:
        for size in ((64, 64), (72, 104)):
            lq = np.full((1, 3, *size), 0.5, np.float32)
            assert session.run(lq).shape == lq.shape


def test_fp16_holds_halves_and_speaks_float32(request_: BuildRequest):
    built = BACKEND.build(replace(request_, precision="fp16"))
    graph = onnx.load(built.path).graph
    kept = {n.input[2] for n in graph.node if n.op_type == "Resize"}
    kinds = {i.name: i.data_type for i in graph.initializer}
    assert {kinds[name] for name in kept} == {onnx.TensorProto.FLOAT}
    assert {kind for name, kind in kinds.items() if name not in kept} == {onnx.TensorProto.FLOAT16}
    assert built.path.stat().st_size < 0.6 * (request_.model / "float.onnx").stat().st_size
    lq = np.random.default_rng(0).random((1, 3, 72, 104), np.float32)
    with open_session(built.path, built.facts) as session:
        found = session.run(lq)
    assert found.dtype == np.float32
    assert 99 > output_psnr(found, OnnxSession(request_.model / "float.onnx").run(lq)) >= 60


def test_what_no_half_can_hold_becomes_the_largest():
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Mul", ["lq", "big"], ["restored"])]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("lq", "restored")]
    big = numpy_helper.from_array(np.asarray(1e6, np.float32), "big")
    model = helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], [big]), opset_imports=[helper.make_opsetid("", 17)])
    assert numpy_helper.to_array(to_half(model).graph.initializer[0]) == np.float16(65504)


def test_nan_in_is_nan_out(request_: BuildRequest):
    built = BACKEND.build(request_)
    lq = np.full((1, 3, 64, 64), np.nan, np.float32)
    with open_session(built.path, built.facts) as session:
        assert np.isnan(session.run(lq)).all()


def test_a_closed_session_refuses(request_: BuildRequest):
    built = BACKEND.build(request_)
    session = open_session(built.path, built.facts)
    session.close()
    with pytest.raises(StageFailed, match="session is closed"):
        session.run(np.zeros((1, 3, 64, 64), np.float32))


def test_wrong_input_and_broken_file_are_named(request_: BuildRequest, tmp_path: Path):
    built = BACKEND.build(request_)
    with open_session(built.path, built.facts) as session, pytest.raises(StageFailed, match="input is float64"):
        session.run(np.zeros((1, 3, 64, 64)))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(StageFailed, match="ONNX Runtime cannot load it"):
        open_session(broken, built.facts)


def test_unknown_precision_and_missing_int8_are_named(request_: BuildRequest, float_folder: Path):
    with pytest.raises(StageFailed, match=r"has no bf16\nhint: it has: fp32, fp16, int8"):
        BACKEND.build(replace(request_, precision="bf16"))
    with pytest.raises(StageFailed, match="stayed in float"):
        BACKEND.build(replace(request_, precision="int8", model=float_folder))


def test_the_folder_fixture_is_a_real_one(model_folder: Path):
    assert ModelFolder(model_folder).has_int8


def test_nothing_is_left_in_the_user_s_home(model_folder: Path, tmp_path: Path):
    code = "import sys; from pathlib import Path; from compile.onnxruntime.backend import OnnxSession; OnnxSession(Path(sys.argv[1]))"
    environment = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")} | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, model_folder / "float.onnx"], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
