from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr, qdq_differences
from compile.tensorrt import BACKEND, trt_engine
from compile.tensorrt.flags import command_flags, trtexec_of
from compile.tensorrt.spec import EngineSpec, TensorRtOptions
from eval.session import BuildRequest, open_session
from pipeline.errors import StageFailed, ToolchainMissing, UsageError
from pipeline.target import Target
from quantize.artifact import ModelFolder
from tests.compile.networks import GATED, SMALL, write_model_folder

HERE = Path(__file__).parent
FLAGS = {
    line.split()[0]: set(line.split()[1:]) for line in (HERE / "trtexec_flags.txt").read_text().splitlines() if not line.startswith("#")
}
LISTED = {"8.2.1": "8.2", "8.5.2": "8.5", "10.3.0": "10.8", "11.4.0": "11.1"}
"""Version on a board -> the release whose flags were read."""


@pytest.fixture
def request_(model_folder: Path, jetson: Target, tmp_path: Path) -> BuildRequest:
    return BuildRequest(model_folder, "int8", 96, 128, jetson, tmp_path / "build", options={"workspace_mib": 512})


@pytest.fixture(scope="module")
def gated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model") / "gated", GATED)


def with_version(request: BuildRequest, version: str, **changes: object) -> BuildRequest:
    backends = tuple(b.model_copy(update={"version": version}) if b.use == "tensorrt" else b for b in request.target.backends)
    target = request.target.model_copy(update={"backends": backends})
    return replace(request, target=target, workdir=request.workdir / version, **changes)


def names(flags: list[str]) -> set[str]:
    return {f.removeprefix("--").partition("=")[0] for f in flags}


def test_int8_is_the_signed_file_at_a_fixed_size(request_: BuildRequest):
    built = BACKEND.build(request_)
    model = onnx.load(built.path)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 96, 128]
    assert model.ir_version <= 8
    assert [d.version for d in model.opset_import if d.domain == ""] == [17]
    assert BACKEND.differences(built, ModelFolder(request_.model)) is None  # the file says it itself
    assert qdq_differences(built.path, ModelFolder(request_.model)) == []
    lq = np.random.default_rng(0).random((1, 3, 96, 128), np.float32)
    free = OnnxSession(request_.model / "qdq_s8.onnx", optimise=False).run(lq)
    assert np.array_equal(OnnxSession(built.path, optimise=False).run(lq), free)


GOLDEN = {
    "8.2.1": (["--fp16", "--int8", "--workspace=512"], "--buildOnly", "--streams=1"),
    "8.5.2": (["--fp16", "--int8", "--memPoolSize=workspace:512"], "--buildOnly", "--streams=1"),
    "10.3.0": (["--fp16", "--int8", "--memPoolSize=workspace:512"], "--skipInference", "--infStreams=1"),
    "11.4.0": (["--memPoolSize=workspace:512"], "--skipInference", "--infStreams=1"),
}


@pytest.mark.parametrize("version", GOLDEN)
def test_the_commands_are_exact(request_: BuildRequest, version: str):
    facts = BACKEND.build(with_version(request_, version)).facts
    differing, build_only, streams = GOLDEN[version]
    assert facts["build_flags"] == [
        "--onnx=artifacts/tensorrt-int8.onnx",
        "--saveEngine=artifacts/tensorrt-int8.engine",
        *differing,
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=artifacts/tensorrt-int8.layers.json",
        build_only,
    ]
    spelled_out = ["--useCudaGraph", "--useSpinWait", "--noDataTransfers", "--separateProfileRun"]
    assert facts["run_flags"] == [*spelled_out, streams, "--sleepTime=0", "--idleTime=0", "--avgRuns=1", "--warmUp=1000"]
    assert (facts["tensorrt"], facts["runs_here"], facts["source"], facts["float_precision"]) == (version, False, "s8", "fp16")


def test_unsigned_activations_are_refused(request_: BuildRequest, tmp_path: Path):
    folder = write_model_folder(tmp_path / "unsigned", SMALL, unsigned=True)
    with pytest.raises(StageFailed, match="activations are unsigned, and TensorRT takes zero points of 0 alone"):
        BACKEND.build(replace(request_, model=folder))


def test_fp16_is_the_float_file_without_int8(request_: BuildRequest):
    facts = BACKEND.build(replace(request_, precision="fp16")).facts
    assert "--fp16" in facts["build_flags"]
    assert "--int8" not in facts["build_flags"]
    assert facts["source"] == "float"
    assert facts["builder"]["precisions"] == ["FP16"]


def test_fp32_is_not_tf32(request_: BuildRequest):
    facts = BACKEND.build(replace(request_, precision="fp32")).facts
    assert "--noTF32" in facts["build_flags"]
    assert not {"fp16", "int8"} & names(facts["build_flags"])
    assert (facts["builder"]["tf32"], facts["float_precision"]) == (False, "fp32")


def test_bf16_is_refused(request_: BuildRequest):
    with pytest.raises(StageFailed, match=r"has no bf16\nhint: it has: fp32, fp16, int8"):
        BACKEND.build(replace(request_, precision="bf16"))


@pytest.mark.parametrize("version", LISTED)
@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_every_flag_exists_in_its_version(version: str, precision: str):
    spec = EngineSpec(name="x", version=version, precision=precision)
    written = names(spec.build_flags()) | names(spec.run_flags())
    # what the scripts on the board add by themselves
    written |= {"timingCacheFile", "help", "loadEngine", "loadInputs", "exportOutput", "exportTimes", "iterations", "duration", "warmUp"}
    assert written <= FLAGS[LISTED[version]]
    assert trtexec_of(version).flags <= FLAGS[LISTED[version]]
    assert not any("calib" in name.lower() for name in written)


def test_versions_differ_where_they_do():
    assert "memPoolSize" not in FLAGS["8.2"]
    assert "buildOnly" not in FLAGS["10.8"]
    assert not {"fp16", "int8", "best"} & FLAGS["11.1"]
    assert [trtexec_of(v).typed for v in LISTED] == [False, False, False, True]


@pytest.mark.parametrize("version", ["", "7.1", "8.6.1", "9.0", "12.0", "8", "new"])
def test_unknown_versions_are_refused(version: str):
    with pytest.raises(UsageError, match=f"no commands for TensorRT '{version}'"):
        trtexec_of(version)


def test_unknown_flags_and_options_are_refused(request_: BuildRequest):
    with pytest.raises(UsageError, match="has no --buildOnly"):
        command_flags("10.3", {"buildOnly": None})
    with pytest.raises(UsageError, match="has no --fp16"):
        command_flags("11.1", {"fp16": None})
    with pytest.raises(UsageError, match=r"workspace_mb: unknown key\nhint: did you mean 'workspace_mib'"):
        BACKEND.build(replace(request_, options={"workspace_mb": 5}))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("folder", ["model_folder", "gated_folder"])
def test_from_11_on_the_file_states_every_type(request_: BuildRequest, precision: str, folder: str, request: pytest.FixtureRequest):
    model = request.getfixturevalue(folder)
    weak = BACKEND.build(with_version(request_, "10.3.0", precision=precision, model=model))
    strong = BACKEND.build(with_version(request_, "11.1.0", precision=precision, model=model))
    graph = onnx.shape_inference.infer_shapes(onnx.load(strong.path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    assert types[graph.input[0].name] == types[graph.output[0].name] == single
    producers = {o: n for n in graph.node for o in n.output}
    for node in graph.node:
        feeds = [producers[i].op_type for i in node.input if i in producers]
        if node.op_type in ("Conv", "ConvTranspose"):
            quantized = feeds[:2] == ["DequantizeLinear"] * 2
            assert types[node.output[0]] == (single if quantized else half), node.name
        if node.op_type == "QuantizeLinear":
            assert types[node.input[0]] == single
        if node.op_type == "GlobalAveragePool":
            assert types[node.output[0]] == single
    lq = np.random.default_rng(0).random((1, 3, 96, 128), np.float32)
    outputs = [OnnxSession(b.path, optimise=False).run(lq) for b in (weak, strong)]
    assert np.array_equal(*outputs) == (folder == "model_folder" and precision == "int8")  # there nothing but the head is float
    assert output_psnr(*outputs) >= 60
    if precision == "int8":
        assert qdq_differences(strong.path, ModelFolder(model)) == []


def refused(request: BuildRequest, arch: str, title: str, version: str, precision: str) -> str:
    gpu = request.target.gpu.model_copy(update={"arch": arch})
    changed = with_version(request, version, precision=precision, options={"dla": True})
    changed = replace(changed, target=changed.target.model_copy(update={"gpu": gpu, "title": title}))
    with pytest.raises(UsageError, match=r"target: backends.tensorrt.options.dla: .*\nhint: remove 'dla'") as e:
        BACKEND.build(changed)
    return e.value.what


def test_the_accelerator_is_refused_with_the_reason(request_: BuildRequest):
    xavier = "sm_72", "AGX Xavier"
    assert "takes no Q/DQ nodes" in refused(request_, *xavier, "8.5.2", "int8")
    layers = refused(request_, *xavier, "8.5.2", "fp16")
    assert "1 SpaceToDepth" in layers
    assert "1 DepthToSpace" in layers
    assert "fp16 and int8 only" in refused(request_, *xavier, "8.5.2", "fp32")
    assert refused(request_, "sm_53", "Nano", "8.2.1", "fp16") == "a Jetson Nano or TX1 (sm_53) has no DLA"
    assert refused(request_, "sm_87", "Jetson Orin Nano 8GB", "10.3.0", "fp16") == "an Orin Nano has no DLA"
    assert "11.0 to 11.3 have no DLA" in refused(request_, "sm_87", "AGX Orin", "11.1.0", "fp16")


def test_gated_layers_are_counted_among_what_an_accelerator_refuses(request_: BuildRequest, gated_folder: Path):
    what = refused(replace(request_, model=gated_folder), "sm_72", "AGX Xavier", "8.5.2", "fp16")
    assert "4 GlobalAveragePool" in what
    assert "13 HardSwish" in what


def test_an_engine_does_not_open_without_tensorrt(request_: BuildRequest):
    built = BACKEND.build(request_)
    what = "engines run on the board only: the Python package tensorrt is not installed\nhint: copy the bundle to the board"
    with pytest.raises(ToolchainMissing, match=what):
        open_session(built.path, built.facts)


def test_options_are_bounded():
    with pytest.raises(ValueError, match="workspace_mib"):
        TensorRtOptions(workspace_mib=0)


def test_the_python_builder_uses_names_that_every_version_has():
    """Against names recorded from the real bindings; what only TensorRT 8 has stands behind a hasattr."""
    recorded = json.loads((HERE / "tensorrt_api.json").read_text())
    del recorded["source"]
    classes = {"config": "IBuilderConfig", "builder": "Builder", "parser": "OnnxParser", "engine": "ICudaEngine"}
    classes |= {"self.engine": "ICudaEngine", "self.context": "IExecutionContext"}
    classes |= {f"trt.{name}": name for name in ("MemoryPoolType", "ProfilingVerbosity", "BuilderFlag", "Logger", "LayerInformationFormat")}
    old = {"max_workspace_size", "num_bindings", "get_binding_name", "binding_is_input", "get_binding_shape"}
    source = ast.parse(Path(trt_engine.__file__).read_text())
    used = {(classes[o], n.attr) for n in ast.walk(source) if isinstance(n, ast.Attribute) and (o := ast.unparse(n.value)) in classes}
    assert {"set_memory_pool_limit", "build_serialized_network", "execute_v2", "TF32"} <= {name for _, name in used}
    for version, known in recorded.items():
        lacking = {name for owner, name in used if name not in known[owner].split()}
        assert lacking == old, version
        kind = "STRONGLY_TYPED" if version.startswith("11") else "EXPLICIT_BATCH"
        assert kind in known["NetworkDefinitionCreationFlag"].split()
        flags = known["BuilderFlag"].split()
        assert ("FP16" in flags, "INT8" in flags) == ((False, False) if version.startswith("11") else (True, True))
