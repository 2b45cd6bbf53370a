from __future__ import annotations

import os
import platform
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compile.onnxruntime.backend import OnnxSession
from compile.tvm import BACKEND
from compile.tvm.link import link_shared
from compile.tvm.schedule import divisor, pixel_tile
from eval.session import BuildRequest, Built, open_session
from pipeline.errors import StageFailed
from pipeline.target import Target
from tests.compile.networks import GATED, write_model_folder

SIZE = (64, 96)


@pytest.fixture(scope="session")
def host_built(model_folder: Path, jetson: Target, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return BACKEND.build(BuildRequest(model_folder, "fp32", *SIZE, jetson, tmp_path_factory.mktemp("tvm"), for_host=True))


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, *size), np.float32)


def test_the_host_build_computes_the_float_network(host_built: Built, model_folder: Path):
    lq = image(*SIZE)
    want = OnnxSession(model_folder / "float.onnx").run(lq)
    for threads in (1, 2):
        with open_session(host_built.path, host_built.facts, threads) as session:
            assert np.abs(session.run(lq) - want).max() < 1e-5
    assert np.abs(want - lq).max() > 1e-2  # the network does something


def test_every_operator_of_the_students_is_scheduled(host_built: Built, jetson: Target, tmp_path: Path):
    assert host_built.facts["unscheduled"] == []
    folder = write_model_folder(tmp_path / "gated", GATED, int8=False)  # squeeze-and-excite, hard-swish, concat, depthwise
    built = BACKEND.build(BuildRequest(folder, "fp32", 48, 80, jetson, tmp_path / "build", for_host=True))
    assert built.facts["unscheduled"] == []
    lq = image(48, 80)
    with open_session(built.path, built.facts) as session:
        assert np.abs(session.run(lq) - OnnxSession(folder / "float.onnx").run(lq)).max() < 1e-5


def test_nan_in_is_nan_out_and_other_sizes_are_refused(host_built: Built):
    with open_session(host_built.path, host_built.facts) as session:
        assert np.isnan(session.run(np.full((1, 3, *SIZE), np.nan, np.float32))).any()
        with pytest.raises(StageFailed, match=r"input is 64x64\nhint: this engine takes 64x96"):
            session.run(image(64, 64))


def elf(path: Path) -> tuple[int, bytes]:
    """Machine number of an ELF file (62 x86-64, 183 aarch64), and its bytes."""
    data = path.read_bytes()
    assert data[:4] == b"\x7fELF"
    return struct.unpack_from("<H", data, 18)[0], data


@pytest.fixture(scope="session")
def cross_built(model_folder: Path, jetson: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Built]:
    request = BuildRequest(model_folder, "fp32", *SIZE, jetson, tmp_path_factory.mktemp("cross"))
    return lambda: BACKEND.build(request)


def test_the_cross_build_is_for_the_target(cross_built: Callable[[], Built], jetson: Target):
    built = cross_built()
    machine, data = elf(built.path)
    assert machine == 183
    assert b"libc.so.6" in data
    assert b"libm.so.6" in data
    assert b"GLIBC_" not in data  # bound to no version: runs with whatever glibc the board has
    assert (built.facts["mcpu"], built.facts["mattr"], built.facts["runs_here"]) == ("carmel", ["+neon"], False)
    again = cross_built()
    assert again.path.read_bytes() == data


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the library is built for another machine than this one")
def test_a_library_for_another_machine_is_refused(cross_built: Callable[[], Built]):
    built = cross_built()
    with pytest.raises(StageFailed, match="is built for aarch64"):
        open_session(built.path, built.facts)


def test_only_known_precisions_and_systems(model_folder: Path, jetson: Target, tmp_path: Path):
    request = BuildRequest(model_folder, "bf16", *SIZE, jetson, tmp_path)
    with pytest.raises(StageFailed, match="has no bf16\nhint: it has: int8, fp32, fp16"):
        BACKEND.build(request)
    old = jetson.model_copy(update={"cpu": jetson.cpu.model_copy(update={"mcpu": "cortex-a72"})})
    with pytest.raises(StageFailed, match="has no fp16 for cortex-a72"):
        BACKEND.build(replace(request, precision="fp16", target=old))
    windows = jetson.model_copy(update={"cpu": jetson.cpu.model_copy(update={"triple": "aarch64-pc-windows"})})
    with pytest.raises(StageFailed, match="cannot link for 'windows'"):
        BACKEND.build(replace(request, precision="fp32", target=windows))


def test_the_linker_s_refusal_is_shown(tmp_path: Path):
    (tmp_path / "bad.o").write_bytes(b"nonsense")
    with pytest.raises(StageFailed, match="linking failed"):
        link_shared(tmp_path / "out.so", [str(tmp_path / "bad.o")], "x86_64", "gnu")


def test_an_android_library_needs_android_s_names(model_folder: Path, jetson: Target, tmp_path: Path):
    from pipeline.target import load_target

    phone = load_target("android-arm64")
    built = BACKEND.build(BuildRequest(model_folder, "fp32", *SIZE, phone, tmp_path))
    machine, data = elf(built.path)
    assert machine == 183
    assert b"libc.so\x00" in data
    assert b"libc.so.6" not in data


@pytest.mark.parametrize(("n", "at_most", "want"), [(64, 16, 16), (48, 16, 16), (135, 16, 15), (17, 16, 1), (12, 0, 1)])
def test_divisor(n: int, at_most: int, want: int):
    assert divisor(n, at_most) == want


@pytest.mark.parametrize(("row", "want"), [(8, 4), (3, 3), (5, 5), (7, 7), (1, 1), (11, 1), (6, 3)])
def test_pixel_tile(row: int, want: int):
    assert pixel_tile(row) == want


def test_a_new_library_at_an_old_path_is_the_new_one(model_folder: Path, jetson: Target, tmp_path: Path):
    other = write_model_folder(tmp_path / "other", {"widths": (8, 8), "depths": (0, 1), "decoder_depths": (0,), "se_from": 2}, int8=False)
    lq = image(*SIZE)
    outputs, sessions = [], []
    for folder in (model_folder, other):
        built = BACKEND.build(BuildRequest(folder, "fp32", *SIZE, jetson, tmp_path / "same", for_host=True))
        sessions.append(open_session(built.path, built.facts))
        outputs.append(OnnxSession(folder / "float.onnx").run(lq))
    for session, want in zip(sessions, outputs, strict=True):
        assert np.abs(session.run(lq) - want).max() < 1e-5
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2


def test_a_library_for_a_richer_cpu_is_refused(host_built: Built):
    import tvm
    from tvm.target.codegen import llvm_cpu_has_features

    richer = {"x86_64": ("sapphirerapids", "avx512fp16"), "aarch64": ("neoverse-v2", "sve2")}[platform.machine()]
    if llvm_cpu_has_features(richer[1], tvm.target.Target({"kind": "llvm", "mcpu": host_built.facts["mcpu"]})):
        pytest.skip("this CPU has it")
    with pytest.raises(StageFailed, match=rf"built for {richer[0]}: this CPU lacks .*{richer[1]}"):
        open_session(host_built.path, {**host_built.facts, "mcpu": richer[0]})


def test_running_does_not_pin_the_process_to_a_core(host_built: Built):
    before = os.sched_getaffinity(0)
    with open_session(host_built.path, host_built.facts, 1) as session:
        session.run(image(*SIZE))
    assert os.sched_getaffinity(0) == before


def test_a_network_that_tvm_cannot_import_is_a_failed_build(model_folder: Path, jetson: Target, tmp_path: Path):
    import onnx

    folder = Path(shutil.copytree(model_folder, tmp_path / "folder"))
    model = onnx.load(folder / "float.onnx")
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    relu.op_type = "Celu"
    onnx.save(model, folder / "float.onnx")
    with pytest.raises(StageFailed, match=r"compile.tvm: cannot compile this network"):
        BACKEND.build(BuildRequest(folder, "fp32", *SIZE, jetson, tmp_path / "build", for_host=True))
