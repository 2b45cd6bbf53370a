from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from compile.onnxruntime.backend import OnnxSession
from compile.parity import scale_differences
from compile.tensorrt import BACKEND
from compile.tensorrt.backend import TensorRtOptions, build_flags, run_flags
from compile.tensorrt.flags import VERSIONS, command_flags, trtexec_of
from eval.session import BuildRequest, open_session
from pipeline.errors import ToolchainMissing, UsageError
from pipeline.target import Target
from quantize.artifact import ModelFolder


@pytest.fixture
def request_(model_folder: Path, jetson: Target, tmp_path: Path) -> BuildRequest:
    return BuildRequest(model_folder, "int8", 96, 128, jetson, tmp_path / "build", options={"workspace_mib": 512})


def test_int8_is_the_signed_file_at_a_fixed_size(request_: BuildRequest):
    built = BACKEND.build(request_)
    model = onnx.load(built.path)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 128]
    assert model.ir_version <= 8
    assert [d.version for d in model.opset_import if d.domain == ""] == [17]
    assert scale_differences(built.path, ModelFolder(request_.model).scales()) == []
    lq = np.random.default_rng(0).random((1, 3, 96, 128), np.float32)
    free = OnnxSession(request_.model / "qdq_s8.onnx", optimise=False).run(lq)
    assert np.array_equal(OnnxSession(built.path, optimise=False).run(lq), free)


def test_the_command_is_exact(request_: BuildRequest):
    facts = BACKEND.build(request_).facts
    assert facts["build_flags"] == [
        "--onnx=artifacts/tensorrt-int8.onnx",
        "--saveEngine=artifacts/tensorrt-int8.engine",
        "--fp16",
        "--int8",
        "--memPoolSize=workspace:512",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=artifacts/tensorrt-int8.layers.json",
        "--buildOnly",
    ]
    assert facts["run_flags"] == [
        "--useCudaGraph",
        "--useSpinWait",
        "--noDataTransfers",
        "--separateProfileRun",
        "--avgRuns=1",
        "--warmUp=1000",
    ]
    assert (facts["tensorrt"], facts["runs_here"], facts["source"]) == ("8.5.2", False, "s8")


def test_fp16_is_the_float_file_without_int8(request_: BuildRequest):
    facts = BACKEND.build(replace(request_, precision="fp16")).facts
    assert "--fp16" in facts["build_flags"]
    assert "--int8" not in facts["build_flags"]
    assert facts["source"] == "float"


@pytest.mark.parametrize("major", VERSIONS)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_every_flag_exists_in_its_version(major: int, precision: str):
    options = TensorRtOptions()
    flags = build_flags(f"{major}.0", "x", precision, options) + run_flags(f"{major}.0", options)
    names = {f.removeprefix("--").partition("=")[0] for f in flags}
    assert names <= VERSIONS[major].flags
    assert VERSIONS[major].build_only in names
    # what the device script adds by itself
    assert {"loadEngine", "loadInputs", "exportOutput", "exportTimes", "iterations", "duration", "warmUp"} <= VERSIONS[major].flags


def test_versions_10_and_8_differ_where_they_do():
    assert "skipInference" not in VERSIONS[8].flags
    assert "buildOnly" not in VERSIONS[10].flags
    assert not {"workspace", "explicitBatch"} & (VERSIONS[8].flags | VERSIONS[10].flags)


@pytest.mark.parametrize("version", ["", "7.1", "11.0", "new"])
def test_unknown_versions_are_refused(version: str):
    with pytest.raises(UsageError, match="no commands for TensorRT"):
        trtexec_of(version)


def test_unknown_flags_and_options_are_refused(request_: BuildRequest):
    with pytest.raises(UsageError, match="has no --buildOnly"):
        command_flags("10.3", {"buildOnly": None})
    with pytest.raises(UsageError, match=r"workspace_mb: unknown key\nhint: did you mean 'workspace_mib'"):
        BACKEND.build(replace(request_, options={"workspace_mb": 5}))


def test_an_engine_does_not_open_here(request_: BuildRequest):
    built = BACKEND.build(request_)
    with pytest.raises(ToolchainMissing, match=r"run on the board only\nhint: copy the bundle there"):
        open_session(built.path, built.facts)
