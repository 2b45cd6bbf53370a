from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StageFailed, ToolchainMissing
from targets.emulate import counting
from targets.emulate.emulator import Emulator
from targets.emulate.restore import Artifact, restore_on
from tests.boards.emulated import emulator

SIDE, OUT = 64, 16


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    """One 3x3 convolution of 3 channels to 16."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    weight = np.random.default_rng(0).random((OUT, 3, 3, 3), np.float32)
    node = helper.make_node("Conv", ["lq", "w"], ["restored"], pads=[1, 1, 1, 1])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, SIDE, SIDE]) for n, c in (("lq", 3), ("restored", OUT))]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


@pytest.mark.slow
def test_one_image_of_a_convolution_takes_what_it_must(convolution: Path):
    if counting.missing():
        pytest.skip(f"needs counting: {counting.missing()}")
    found = counting.instructions(emulator(), Artifact(convolution, "onnxruntime", {}), np.zeros((1, 3, SIDE, SIDE), np.float32))
    vectors = SIDE * SIDE * OUT * 27 / 4  # four multiply-accumulates each
    assert vectors <= found["fma"] <= 1.5 * vectors, found
    assert found["dot"] == found["widening"] == 0
    assert found["scalar"] < 0.01 * vectors


@pytest.mark.slow
def test_onnx_runtime_runs_in_one_thread(convolution: Path, monkeypatch: pytest.MonkeyPatch):
    """A second one that ends while a plugin is loaded brings qemu 7.2 down, or to a standstill."""
    machine, said = emulator(), []
    run = Emulator.run

    def kept(*given: Any, **named: Any) -> subprocess.CompletedProcess[str]:
        said.append(run(*given, **named))
        return said[-1]

    monkeypatch.setattr(Emulator, "run", kept)
    restore_on(replace(machine, options=("-strace",)), [Artifact(convolution, "onnxruntime", {})], np.zeros((1, 3, SIDE, SIDE), np.float32))
    assert "exit_group(0)" in said[0].stderr
    assert "clone(" not in said[0].stderr


def test_what_counting_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(ToolchainMissing, match=r"emulate: cannot count instructions\nhint: apt-get install qemu-user"):
        counting.instructions(Emulator(), Artifact(tmp_path / "none", "onnxruntime", {}), np.zeros((1, 3, 8, 8), np.float32))


def test_the_counts_of_all_processes_are_added_up_and_none_at_all_is_an_error(tmp_path: Path):
    with pytest.raises(StageFailed, match="the plugin counted nothing"):
        counting.counts_in(tmp_path)
    (tmp_path / "1.json").write_text('{"dot": 2, "other": 3}\n{"dot": 1}\n')
    (tmp_path / "2.json").write_text('{"other": 4}\n')
    assert counting.counts_in(tmp_path) == {"dot": 3, "other": 7}


@pytest.mark.parametrize(("version", "fits"), [("7.2.22", True), ("8.2.2", True), ("9.0.1", False), ("10.0.2", False)])
def test_a_qemu_whose_plugins_are_others_is_refused(version: str, fits: bool, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ziglang")
    said = subprocess.CompletedProcess([], 0, f"qemu-aarch64 version {version} (Debian)\n")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    assert (counting.missing() == "") is fits
