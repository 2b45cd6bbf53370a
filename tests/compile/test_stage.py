from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from compile.candidates import Attempt, Plan, build, frame_of, plans_for
from compile.judge import First, Judged, choose, restorer_of, tile_of
from compile.parity import Parity
from compile.stage import STAGE
from eval.quality import QualityResult
from eval.session import Session
from pipeline.contract import Evidence, Kind, StageResult, Verdict
from pipeline.errors import StageFailed, UsageError
from pipeline.target import Target, TargetView, load_target
from tests.compile.conftest import compile_stage
from tests.compile.networks import Photos


def test_every_candidate_is_in_the_result_with_a_reason(compiled: StageResult):
    names = [c.name for c in compiled.candidates]
    assert names == ["tensorrt-int8", "tensorrt-fp16", "tvm-fp32", "onnxruntime-int8", "onnxruntime-fp32", "tvm-fp32-host"]
    assert all(c.reason for c in compiled.candidates)
    assert [c.name for c in compiled.candidates if c.chosen] == ["tensorrt-int8"]


def test_the_fastest_proven_candidate_is_chosen_by_its_estimate(compiled: StageResult):
    chosen = next(c for c in compiled.candidates if c.chosen)
    estimates = {c.name: m.value for c in compiled.candidates for m in c.measurements if m.evidence is Evidence.ESTIMATED}
    assert set(estimates) == {"tensorrt-int8", "tensorrt-fp16", "tvm-fp32", "onnxruntime-int8", "onnxruntime-fp32"}
    assert estimates["tensorrt-int8"] < estimates["onnxruntime-int8"]
    assert "the fastest that passes" in chosen.reason
    assert "estimated" in chosen.reason
    frame = next(m for m in chosen.measurements if m.evidence is Evidence.ESTIMATED).conditions
    assert (frame["frame"], frame["runs_on"], frame["target"]) == ("316x180", "gpu", "jetson-xavier")


def test_what_does_not_run_here_is_unproven_or_judged_by_a_stand_in(compiled: StageResult):
    by_name = {c.name: c for c in compiled.candidates}
    for name in ("tensorrt-fp16", "tvm-fp32"):
        assert "parity unproven" in by_name[name].reason
        assert not any(m.name == "parity_psnr" for m in by_name[name].measurements)
    psnr = next(m for m in by_name["tensorrt-int8"].measurements if m.name == "psnr")
    assert psnr.conditions["runtime"] == "onnxruntime on the same network"
    assert not any(m.name == "latency_p50" and m.evidence is Evidence.HOST for m in by_name["tensorrt-int8"].measurements)


def test_what_runs_here_is_measured_here(compiled: StageResult):
    by_name = {c.name: c for c in compiled.candidates}
    for name in ("onnxruntime-int8", "onnxruntime-fp32", "tvm-fp32-host"):
        measured = [m for m in by_name[name].measurements if m.name == "latency_p50" and m.evidence is Evidence.HOST]
        assert len(measured) == 1
        assert measured[0].value > 0
        assert measured[0].conditions["frame"] == "96x96"
    parity = {m.name: m.value for m in by_name["tvm-fp32-host"].measurements}
    assert parity["parity_psnr"] >= 60


def test_the_stage_hands_on_what_it_promises(compiled: StageResult):
    assert {k: v.kind for k, v in compiled.outputs.items()} == {"bundle": Kind.BUNDLE, "engine": Kind.ENGINE}
    names = {m.name for m in compiled.measurements}
    assert {"size", "parity_psnr", "parity_task_psnr", "latency_p50"} <= names
    assert not names & {"psnr", "ssim", "psnr_gain"}, "quality on the calibration set would be read as the test set's"
    engine = compiled.outputs["engine"]
    assert engine.facts["backend"] == "compile.tensorrt"
    size = next(m for m in compiled.measurements if m.name == "size")
    assert size.value == engine.path.stat().st_size / 1e6


def test_on_the_host_the_fastest_measured_wins(model_folder: Path, tmp_path: Path):
    result = compile_stage(model_folder, load_target("host"), tmp_path / "work")
    assert [c.name for c in result.candidates] == [p.name for p in plans_for(load_target("host"))]
    built = [c for c in result.candidates if not c.reason.startswith("not built")]
    assert {"onnxruntime-int8", "onnxruntime-fp32", "tvm-fp32"} <= {c.name for c in built}
    times = {c.name: next(m.value for m in c.measurements if m.name == "latency_p50") for c in built}
    chosen = next(c for c in result.candidates if c.chosen)
    assert times[chosen.name] == min(times.values())
    assert not any(m.evidence is Evidence.ESTIMATED for c in result.candidates for m in c.measurements)


def test_a_float_network_is_compiled_without_int8(float_folder: Path, jetson: Target, tmp_path: Path):
    result = compile_stage(float_folder, jetson, tmp_path / "work")
    by_name = {c.name: c for c in result.candidates}
    assert by_name["tensorrt-int8"].reason == "not built: the network stayed in float"
    assert by_name["onnxruntime-fp32"].chosen  # the only one for the board that is proven here
    assert any("tensorrt-fp16 may be faster" in note for note in result.notes)


def test_a_missing_toolchain_is_a_reason_with_the_install_line(model_folder: Path, jetson: Target, tmp_path: Path):
    attempt = build(Plan("no_such_backend", "fp32"), model_folder, jetson, tmp_path, 96)
    assert attempt.built is None
    assert attempt.reason.startswith("not built: cannot be imported")
    assert 'pip install -e ".[all]"' in attempt.reason
    failed = build(Plan("tvm", "bf16"), model_folder, jetson, tmp_path, 96)
    assert failed.reason == "not built: compile.tvm: has no bf16"


def test_tiles_must_fit_the_network(model_folder: Path, jetson: Target, tmp_path: Path):
    with pytest.raises(UsageError, match=r"stages.compile.with.tile: 100 is no multiple"):
        compile_stage(model_folder, jetson, tmp_path / "work", tile=100)


def test_nothing_passing_fails_with_every_reason(model_folder: Path, tmp_path: Path):
    host = load_target("host").model_copy(update={"backends": ()})
    with pytest.raises(StageFailed, match=r"no candidate passes: .*onnxruntime-int8-host"):
        compile_stage(model_folder, host, tmp_path / "work")


def judged(name: str, ms: float, verdict: str = "passed", psnr: float = 30.0) -> Judged:
    attempt = Attempt(Plan(name, "fp32"))
    return Judged(attempt, Parity(Verdict(verdict), "x"), QualityResult(("a",), (psnr,), (1.0,), (20.0,)), ms, ())


def test_the_choice():
    def name(*candidates: Judged) -> str:
        found = choose(candidates, 29.0)
        return found.attempt.plan.use if found else ""

    assert name(judged("a", 3), judged("b", 2)) == "b"
    assert name(judged("a", 3), judged("b", 2, "failed")) == "a"
    assert name(judged("a", 3), judged("b", 2, psnr=28.9)) == "a"
    assert name(judged("a", 3), judged("b", math.nan), judged("c", 2, psnr=math.nan)) == "a"
    assert name(judged("a", 3), judged("b", 2, "unproven")) == "a"  # no evidence is not a pass
    assert name(judged("b", 2, "unproven"), judged("c", 1, "unproven")) == "c"
    assert name(judged("a", 3, "failed")) == ""
    assert name() == ""


def test_plans_and_frames():
    target = load_target("jetson-xavier")
    assert [p.name for p in plans_for(target)] == ["tensorrt-int8", "tensorrt-fp16", "tvm-fp32", "onnxruntime-int8", "onnxruntime-fp32"]
    assert frame_of(target, 16) == (1088, 1920)
    assert all(p.for_host for p in plans_for(load_target("host")))


def test_the_stage_reads_what_it_declares():
    view = TargetView(load_target("jetson-xavier"), STAGE.reads_target)
    with pytest.raises(AttributeError, match="not declared"):
        _ = view.pays
    assert STAGE.measures == "host"
    assert "targets.device" in STAGE.code


def test_tile_of_cuts_the_middle_and_mirrors_what_is_missing():
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    assert np.array_equal(tile_of(image, 3, 3), image[1:4, 2:5])
    wide = tile_of(image, 5, 11)
    assert np.array_equal(wide[:, 2:9], image)
    assert np.array_equal(wide[:, 1], image[:, 1])


def test_a_session_of_fixed_size_restores_by_tiles():
    class Same(Session):
        def _run(self, lq: np.ndarray) -> np.ndarray:
            return lq

    image = Photos(1)[0].lq
    assert np.array_equal(restorer_of(Same(64, 64), 8)(image), image)


def test_first_is_the_beginning_of_a_source():
    photos = Photos()
    assert len(First(photos, 2)) == 2
    assert len(First(photos, 0)) == len(First(photos, 99)) == 3
    assert First(photos, 2)[1].name == "crop1"
    assert First(photos, 2).digest() == photos.digest()
