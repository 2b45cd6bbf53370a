"""A student that suits its target says nothing; each way of fighting it is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.fitness import misfits
from models.arch import build
from models.export import export_onnx
from models.fold import fold_batchnorm
from pipeline.target import Target, load_target

PLAIN = {"widths": [16, 24], "depths": [1, 1], "se_from": 9, "low_block": "fused", "kernels": 3}


def told(tmp_path: Path, target: Target, **config: object) -> list[str]:
    network = fold_batchnorm(build("student", {**PLAIN, **config}))
    path = tmp_path / "student.onnx"
    export_onnx(network, path)
    found = misfits(path, target, "p.yaml: stages.s", 4)
    assert {p.where for p in found} <= {"p.yaml: stages.s"}
    return [p.what for p in found]


@pytest.fixture
def xavier() -> Target:
    return load_target("jetson-xavier")


def test_a_student_that_suits_its_target(tmp_path: Path, xavier: Target):
    assert told(tmp_path, xavier) == []
    assert told(tmp_path, xavier, upsample="nearest", activation="relu6", skip="concat") == []


def test_activations(tmp_path: Path, xavier: Target):
    (what,) = told(tmp_path, xavier, activation="hardswish")
    assert what == "4 of its 4 activations are hardswish, which does not pay on jetson-xavier; relu or relu6 does"


def test_what_a_gate_computes_is_no_activation(tmp_path: Path, xavier: Target):
    pays = xavier.pays.model_copy(update={"activation": ("hardswish",)})
    found = told(tmp_path, xavier.model_copy(update={"pays": pays}), activation="hardswish", se_from=0)
    assert len(found) == 1  # its ReLU and hard sigmoid work on one value per channel
    assert found[0].startswith("pools 3 times over the whole image (squeeze-and-excite), and artifacts for jetson-xavier's CPU see a tile")
    assert found[0].endswith("; leave the pools out (a student's se_from past its last scale), or give the compile stage a larger 'tile'")


def test_pooling_matters_where_there_are_tiles(tmp_path: Path, xavier: Target):
    gpu_alone = xavier.model_copy(update={"backends": tuple(b for b in xavier.backends if b.runs_on == "gpu")})
    assert told(tmp_path, gpu_alone, se_from=0) == []


def test_upsampling(tmp_path: Path, xavier: Target):
    (what,) = told(tmp_path, xavier, upsample="deconv")
    assert what == "up-samples 1 times by deconv, which does not pay on jetson-xavier; nearest or bilinear does"


def test_widths(tmp_path: Path, xavier: Target):
    (what,) = told(tmp_path, xavier, widths=[20, 24])
    assert "of its" in what
    assert "convolutions have a width that is no multiple of 8, to which jetson-xavier pads them: 20 (" in what
    assert told(tmp_path, xavier.model_copy(update={"channel_multiple": 4}), widths=[20, 24]) == []


def test_depthwise_convolutions_cost_a_gpu_time(tmp_path: Path, xavier: Target):
    blocks = {"high_block": "inverted_residual", "low_block": "inverted_residual"}
    (what,) = told(tmp_path, xavier, **blocks)
    assert "depthwise convolutions are" in what
    assert "of the estimated time on jetson-xavier's GPU, where int8 gains them nothing" in what
    in_float = tuple(b.model_copy(update={"precisions": ("fp16",)}) if b.runs_on == "gpu" else b for b in xavier.backends)
    assert told(tmp_path, xavier.model_copy(update={"backends": in_float}), **blocks) == []
    assert told(tmp_path, load_target("raspberry-pi-5"), **blocks) == []


def test_blocks_that_a_target_does_not_name(tmp_path: Path):
    pi = load_target("raspberry-pi-5")
    fused = pi.model_copy(update={"pays": pi.pays.model_copy(update={"blocks": ("fused",)})})
    (what,) = told(tmp_path, fused, high_block="inverted_residual")
    assert what == "has 3 depthwise convolutions, which do not pay on raspberry-pi-5; fused blocks do"


def test_another_architecture_is_looked_at_too(tmp_path: Path, xavier: Target):
    network = build("nafnet", {"width": 8, "enc_blk_nums": [1], "middle_blk_num": 1, "dec_blk_nums": [1]})
    path = tmp_path / "nafnet.onnx"
    export_onnx(network, path)
    assert any("pools 3 times" in p.what for p in misfits(path, xavier, "x", 2))
