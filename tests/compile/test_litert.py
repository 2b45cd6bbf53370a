"""A .tflite is the network, whole: every kind of block, in one piece, with the scales and integers of the model folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from compile.litert import BACKEND
from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from eval.session import BuildRequest, Built, open_session
from pipeline.errors import StageFailed
from pipeline.target import load_target
from quantize.artifact import ModelFolder
from quantize.folder import write_folder
from quantize.insert import quantizers, set_float
from tests.quantize.toys import PATTERNS, SMALL, photos, quantized, student

pytest.importorskip("ai_edge_litert", reason='pip install -e ".[litert]"')

SIZE = (96, 64)
CASES = {
    **PATTERNS,
    "gates everywhere": {**SMALL, "activation": "hardswish", "se_from": 0, "high_scales": 0, "skip": "concat"},
    "two tensors in float": SMALL,
    "unsigned": SMALL,
}


@dataclass
class Case:
    folder: ModelFolder
    build: Callable[[str], Built]


@pytest.fixture(scope="module", params=CASES, ids=CASES.keys())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folded, ready = quantized(student(**CASES[request.param]), unsigned=request.param == "unsigned")
    if "float" in request.param:
        set_float(ready, list(quantizers(ready))[5:7])
    work = tmp_path_factory.mktemp("litert")
    folder = write_folder(work / "model", folded, "student", 17, ready)
    asked = BuildRequest(folder.path, "fp32", *SIZE, load_target("raspberry-pi-5"), work / "build")
    made: dict[str, Built] = {}

    def build(precision: str) -> Built:
        if precision not in made:
            made[precision] = BACKEND.build(replace(asked, precision=precision))
        return made[precision]

    return Case(folder, build)


def image(height: int = SIZE[0], width: int = SIZE[1]) -> np.ndarray:
    return np.ascontiguousarray(photos(1, 96)[0].numpy()[:, :, :height, :width])


def run(built: Built, lq: np.ndarray) -> np.ndarray:
    with open_session(built.path, built.facts) as session:
        return session.run(lq)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_xnnpack_takes_it_whole_and_nothing_is_transposed(case: Case, precision: str):
    facts = case.build(precision).facts
    assert facts["partitions"] == 1
    assert "TRANSPOSE" not in facts["operators"]
    assert (facts["height"], facts["width"], facts["runs_here"]) == (*SIZE, True)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 99), ("fp16", 80)])
def test_floats_are_those_of_the_float_network(case: Case, precision: str, least: float):
    want = OnnxSession(case.folder.float, optimise=False).run(image())
    assert output_psnr(run(case.build(precision), image()), want) > least
    assert output_psnr(want, image()) < 50  # the network does something


def test_int8_has_the_scales_zero_points_and_integers_of_the_folder(case: Case):
    assert BACKEND.differences(case.build("int8"), case.folder) == []


def test_int8_restores_as_the_fake_quantized_network_does(case: Case):
    lq = image()
    plain = OnnxSession(case.folder.qdq("s8"), optimise=False).run(lq)
    sharp = OnnxSession(case.folder.float).run(lq) + np.random.default_rng(0).normal(0, 8 / 255, lq.shape).astype(np.float32)
    got = run(case.build("int8"), lq)
    assert abs(output_psnr(got, sharp) - output_psnr(plain, sharp)) < 0.05
    assert output_psnr(got, plain) > 55


def test_fp16_halves_the_weights(model_folder: Path, tmp_path: Path):
    sizes = [request(model_folder, tmp_path, p).path.stat().st_size for p in ("fp32", "fp16", "int8")]
    assert sizes[1] < 0.65 * sizes[0]
    assert sizes[2] < 0.5 * sizes[0]


def request(model: Path, work: Path, precision: str, side: int = 64) -> Built:
    return BACKEND.build(BuildRequest(model, precision, side, side, load_target("host"), work / precision))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_equal_input_gives_equal_bytes(model_folder: Path, tmp_path: Path, precision: str):
    files = [request(model_folder, tmp_path / name, precision).path.read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_nan_in_is_nan_out_in_float_and_other_sizes_are_refused(model_folder: Path, tmp_path: Path):
    built = request(model_folder, tmp_path, "fp32")
    with open_session(built.path, built.facts) as session:
        assert np.isnan(session.run(np.full((1, 3, 64, 64), np.nan, np.float32))).all()
        with pytest.raises(StageFailed, match=r"input is 64x72\nhint: this engine takes 64x64"):
            session.run(image(64, 72))


def test_a_batch_is_restored_image_by_image_and_outputs_stay(model_folder: Path, tmp_path: Path):
    built = request(model_folder, tmp_path, "int8")
    two = np.concatenate([image(64, 64), image(64, 64)[:, :, ::-1]])
    with open_session(built.path, built.facts, threads=2) as session:
        both = session.run(two)
        assert np.array_equal(both[1:], session.run(two[1:]))
        assert np.array_equal(both[:1], session.run(two[:1]))
    assert both.flags["C_CONTIGUOUS"]


def test_broken_files_and_missing_int8_are_named(model_folder: Path, float_folder: Path, tmp_path: Path):
    built = request(model_folder, tmp_path, "fp32")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"not a network")
    with pytest.raises(StageFailed, match="LiteRT cannot load it"):
        open_session(broken, built.facts)
    with pytest.raises(StageFailed, match="stayed in float"):
        request(float_folder, tmp_path, "int8")
    with pytest.raises(StageFailed, match=r"has no bf16\nhint: it has: fp32, fp16, int8"):
        request(model_folder, tmp_path, "bf16")


def test_an_operator_without_a_form_is_a_failed_build(model_folder: Path, tmp_path: Path):
    import onnx

    folder = Path(shutil.copytree(model_folder, tmp_path / "folder"))
    model = onnx.load(folder / "float.onnx")
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Celu"
    onnx.save(model, folder / "float.onnx")
    with pytest.raises(StageFailed, match=r"operator Celu \('.*'\) has no form in a .tflite here\nhint: use another backend"):
        request(folder, tmp_path, "fp32")
