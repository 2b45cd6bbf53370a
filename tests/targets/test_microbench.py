from __future__ import annotations

import numpy as np
import onnx
import pytest

from compile.onnxruntime.backend import OnnxSession
from eval.cost import onnx_layers
from eval.session import BuildRequest, load_backend, open_session
from pipeline.target import load_target
from quantize.artifact import ModelFolder
from targets.kinds import FRAME, units_of
from targets.microbench import Micro, default_set, write

KINDS = sorted({m.kind for m in default_set()})


def test_names_are_unique_and_every_kind_is_there():
    names = [m.name for m in default_set()]
    assert len(set(names)) == len(names)
    assert KINDS == ["add", "concat", "deconv", "dense", "depthwise", "none", "pointwise", "resize", "se", "skip"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unshuffle", [1, 4])
def test_every_kind_runs_in_every_flavour(tmp_path, kind, unshuffle):
    folder = ModelFolder(write(tmp_path, Micro(kind, 16, unshuffle, 1, activation="hardswish")))
    lq = np.random.default_rng(0).random((1, 3, 32, 48), np.float32)
    for path in (folder.float, folder.qdq("s8"), folder.qdq("u8")):
        with OnnxSession(path) as session:
            out = session.run(lq)
        assert out.shape == lq.shape
        assert np.isfinite(out).all()


def test_an_older_opset_is_kept_and_means_the_same(tmp_path):
    lq = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    outputs = []
    for opset in (13, 17):
        path = ModelFolder(write(tmp_path / str(opset), Micro("dense", 16, 2, 1, activation="hardswish"), opset)).float
        assert onnx.load(path).opset_import[0].version == opset
        with OnnxSession(path) as session:
            outputs.append(session.run(lq))
    np.testing.assert_allclose(*outputs, atol=1e-4)


def test_flavours_are_the_same_network(tmp_path):
    folder = ModelFolder(write(tmp_path, Micro("dense", 16, 2, 1)))
    lq = np.random.default_rng(0).random((1, 3, 32, 32), np.float32) / 8
    with OnnxSession(folder.float) as a, OnnxSession(folder.qdq("u8"), optimise=False) as b:
        assert np.abs(a.run(lq) - b.run(lq)).mean() < 0.02


def test_the_body_is_int8_and_the_same_kinds_as_in_float(tmp_path):
    folder = ModelFolder(write(tmp_path, Micro("depthwise", 16, 2, 3, activation="relu6")))
    found = [units_of(onnx_layers(path, 32, 32)) for path in (folder.float, folder.qdq("s8"))]
    assert [u.kind for u in found[0]] == [u.kind for u in found[1]]
    kinds = [u.kind for u in found[0]]
    assert kinds == [FRAME, "shuffle", "narrow", "depthwise+clip", "depthwise+clip", "depthwise+clip", "narrow", "shuffle", "add"]
    assert [u.precision for u in found[1][2:7]] == ["int8"] * 5


def test_the_default_set_teaches_the_kinds_of_a_student(tmp_path):
    import torch

    from models.arch import build
    from models.export import export_onnx

    taught = set()
    for n, micro in enumerate(default_set()):
        taught |= {u.kind for u in units_of(onnx_layers(ModelFolder(write(tmp_path / str(n), micro)).float, 32, 32))}
    configs = (
        {},
        {"activation": "hardswish", "upsample": "deconv", "skip": "concat", "se_from": 0},
        {"activation": "relu6", "high_scales": 0},
    )
    for config in configs:
        torch.manual_seed(0)
        export_onnx(build("student", config).eval(), tmp_path / "student.onnx")
        assert {u.kind for u in units_of(onnx_layers(tmp_path / "student.onnx", 32, 32))} - taught == set()


@pytest.mark.parametrize("backend", ["tvm", "litert", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_other_backends_build_and_run_it(tmp_path, backend, precision):
    folder = write(tmp_path / "model", Micro("skip", 16, 2, 1))
    built = load_backend(backend).build(BuildRequest(folder, precision, 32, 32, load_target("host"), tmp_path / "built", for_host=True))
    lq = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    with open_session(built.path, built.facts, 1) as session:
        assert session.run(lq).shape == lq.shape


@pytest.mark.slow
def test_a_calibration_by_a_few_microbenchmarks_predicts_one_left_out(tmp_path):
    from pipeline.target import load_target
    from targets.calibration import fit, rows_of, time_in_turn
    from targets.estimator import estimate

    micros = {m.name: m for m in default_set() if m.kind in ("none", "dense", "pointwise") and m.activation == "relu"}
    layers, calls = {}, {}
    for name, micro in micros.items():
        path = ModelFolder(write(tmp_path / name, micro)).float
        layers[name] = onnx_layers(path, 128, 128)
        session, lq = OnnxSession(path), np.zeros((1, 3, 128, 128), np.float32)
        calls[name] = lambda session=session, lq=lq: session.run(lq)
    import time

    ms = time_in_turn(calls, count=8, clock=time.process_time_ns)
    left_out = "dense-c32-u2-x3-k3-relu"
    rates = load_target("host").rates["cpu"]
    kept = {name: value for name, value in ms.items() if name != left_out}
    made = fit(rows_of(layers, kept, 8), rates, backend="onnxruntime", precision="fp32", threads=1)
    found = estimate(layers[left_out], rates.model_copy(update={"calibrations": (made,)}), backend="onnxruntime")
    assert found.ms == pytest.approx(ms[left_out], rel=0.5)
