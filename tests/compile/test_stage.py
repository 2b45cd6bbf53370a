from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compile.candidates import Attempt, Plan, frame_of, plans_for, thread_counts
from compile.judge import Judged, choose
from compile.limits import Limits
from compile.parity import Parity
from compile.pictures import First, restorer_of, tile_of
from compile.stage import STAGE
from eval.bundle import Bundle
from eval.quality import QualityResult
from eval.receptive import Receptive
from eval.session import Session
from pipeline.contract import Evidence, Kind, StageResult, Verdict
from pipeline.errors import StageFailed, ToolchainMissing, UsageError
from pipeline.machine import cores
from pipeline.target import BackendChoice, Target, TargetView, load_target
from tests.compile.conftest import compile_stage
from tests.compile.networks import Photos

NATIVES = "tests.compile.natives"
ABSENT = f"{NATIVES}.absent"


def test_every_candidate_is_in_the_result_with_a_reason(compiled: StageResult):
    names = [c.name for c in compiled.candidates]
    cpu = ("tvm-int8", "tvm-fp16", "tvm-fp32", "onnxruntime-int8", "onnxruntime-fp32")
    threaded = [f"{name}{threads}" for name in cpu for threads in ("", "-8t")]
    assert names == ["tensorrt-int8", "tensorrt-fp16", *threaded, "tvm-int8-host", "tvm-fp32-host"]
    assert all(c.reason for c in compiled.candidates)
    assert [c.name for c in compiled.candidates if c.chosen] == ["tensorrt-int8"]


def test_the_fastest_proven_candidate_is_chosen_by_its_estimate(compiled: StageResult):
    chosen = next(c for c in compiled.candidates if c.chosen)
    estimates = {c.name: m.value for c in compiled.candidates for m in c.measurements if m.evidence is Evidence.ESTIMATED}
    assert set(estimates) == {c.name for c in compiled.candidates} - {"tvm-int8-host", "tvm-fp32-host"}
    assert estimates["tensorrt-int8"] < estimates["onnxruntime-int8-8t"] < estimates["onnxruntime-int8"]
    assert "the fastest that passes, by a stand-in: " in chosen.reason
    assert "estimated" in chosen.reason
    frame = next(m for m in chosen.measurements if m.evidence is Evidence.ESTIMATED).conditions
    assert (frame["frame"], frame["runs_on"], frame["target"]) == ("316x180", "gpu", "jetson-xavier")


def test_what_does_not_run_here_is_unproven_or_judged_by_a_stand_in(compiled: StageResult):
    by_name = {c.name: c for c in compiled.candidates}
    for name in ("tensorrt-fp16", "tvm-fp32"):
        assert "parity unproven" in by_name[name].reason
        assert not any(m.name == "parity_psnr" for m in by_name[name].measurements)
    for name, stands_in in (("tensorrt-int8", True), ("tvm-int8", True), ("onnxruntime-int8", False), ("tvm-int8-host", False)):
        assert ("by a stand-in here, its source in ONNX Runtime: scales and integers exact" in by_name[name].reason) == stands_in
        assert ("its own runtime runs on " in by_name[name].reason) == stands_in
    assert any(note.startswith("tensorrt-int8 did not run here: by a stand-in here, ") for note in compiled.notes)
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
    splits = {(m.name, m.conditions["split"], m.samples) for m in by_name["tvm-int8-host"].measurements if "parity" in m.name}
    assert splits == {("parity_psnr", "test", 2), ("parity_task_psnr", "test", 2), ("parity_task_psnr", "calibrate", 3)}
    many = [m for m in by_name["onnxruntime-fp32-8t"].measurements if m.name == "latency_p50" and m.evidence is Evidence.HOST]
    assert len(many) == (cores() >= 8), "threads that this machine has not are not measured here"


def test_what_tiles_do_to_an_image_is_measured_on_images_that_are_cut(compiled: StageResult):
    rows = {m.name: m for m in compiled.measurements}
    assert rows["tile_difference"].conditions["tile"] == "96x96" and rows["tile_difference"].samples == 2
    assert 0 < rows["tile_difference"].conditions["mean"] < 5, "the student pools over its tile"
    assert any("tiles of 96x96 overlapping by" in note for note in compiled.notes)


def test_every_loser_says_by_how_much(compiled: StageResult):
    by_name = {c.name: c.reason for c in compiled.candidates}
    for name in ("onnxruntime-int8-8t", "onnxruntime-fp32"):
        assert re.match(r"(slower by \d+ %|[\d.e+]+ times as slow): [\d.]+ ms estimated against [\d.]+; ", by_name[name]), by_name[name]
    assert by_name["tvm-fp32-host"].startswith("for this machine only: ")
    rows = {m.name for c in compiled.candidates for m in c.measurements}
    assert "psnr_drop_worst" in rows


def test_the_bundle_holds_each_artifact_once_whatever_its_threads(bundle: Path, compiled: StageResult):
    names = [a.name for a in Bundle.open(bundle).facts.artifacts]
    assert len(set(names)) == len(names)
    assert not any(name.endswith("-8t") for name in names)
    assert {"tensorrt-int8", "tvm-fp32"} <= set(names)


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
    assert by_name["onnxruntime-fp32-8t"].chosen  # the fastest for the board that is proven here
    assert any("tensorrt-fp16 may be faster" in note for note in result.notes)


def only(target: Target, *uses: str, precisions: tuple[str, ...] = ("fp32",)) -> Target:
    """A target that names these backends."""
    choices = tuple(BackendChoice(use=use, runs_on="cpu", precisions=precisions) for use in uses)
    return target.model_copy(update={"backends": choices})


def test_a_missing_toolchain_is_a_reason_with_the_install_line(model_folder: Path, tmp_path: Path):
    target = only(load_target("host"), ABSENT, "onnxruntime")
    by_name = {c.name: c for c in compile_stage(model_folder, target, tmp_path / "work").candidates}
    assert by_name["absent-fp32"].reason == "not built: its packages are not installed; pip install a-package-that-nobody-wrote"
    assert by_name["onnxruntime-fp32"].chosen


def test_a_missing_toolchain_that_was_asked_for_is_exit_6(model_folder: Path, tmp_path: Path):
    target = only(load_target("host"), ABSENT, "onnxruntime")
    with pytest.raises(ToolchainMissing, match=r"absent: .* was asked for.*\nhint: pip install a-package-that-nobody-wrote") as caught:
        compile_stage(model_folder, target, tmp_path / "work", backends=(ABSENT,))
    assert caught.value.exit_code == 6


def test_nothing_built_for_want_of_packages_is_exit_6(model_folder: Path, jetson: Target, tmp_path: Path):
    with pytest.raises(ToolchainMissing, match=r"no candidate can be built: the packages of .*absent") as caught:
        compile_stage(model_folder, only(jetson, ABSENT), tmp_path / "work")
    assert caught.value.hint == "pip install a-package-that-nobody-wrote"


def test_an_unknown_backend_is_named(model_folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=r"with.backends: target 'host' names no backend 'openvno'\nhint: did you mean 'openvino'"):
        compile_stage(model_folder, load_target("host"), tmp_path / "work", backends=("openvno",))


def test_named_backends_are_all_that_is_tried(model_folder: Path, tmp_path: Path):
    result = compile_stage(model_folder, load_target("host"), tmp_path / "work", backends=("onnxruntime",), threads=[1, 2])
    assert [c.name for c in result.candidates] == [f"onnxruntime-{name}" for name in ("int8", "int8-2t", "fp32", "fp32-2t")]
    for c in result.candidates:
        threads = {m.conditions["threads"] for m in c.measurements if m.name == "latency_p50"}
        assert threads == ({2} if c.name.endswith("-2t") else {1})
    chosen = next(c for c in result.candidates if c.chosen)
    assert result.outputs["engine"].facts["threads"] == (2 if chosen.name.endswith("-2t") else 1)


def test_crashes_are_reasons_and_the_rest_goes_on(model_folder: Path, tmp_path: Path):
    target = only(load_target("host"), f"{NATIVES}.crashes_building", f"{NATIVES}.crashes_running", "onnxruntime")
    said: list[str] = []
    result = compile_stage(model_folder, target, tmp_path / "work", said=said)
    by_name = {c.name: c for c in result.candidates}
    assert by_name["crashes_building-fp32"].reason == "not built: its process was killed by SIGSEGV"
    assert by_name["crashes_running-fp32"].reason == "parity failed: does not run: its process was killed by SIGSEGV"
    assert by_name["onnxruntime-fp32"].chosen
    assert any("about to lower conv 7" in line for line in said), "what it printed is in the stage's log"


def test_a_candidate_that_ruins_one_image_or_is_too_large_is_not_chosen(model_folder: Path, tmp_path: Path):
    target = only(load_target("host"), "onnxruntime", precisions=("int8", "fp32"))
    result = compile_stage(model_folder, target, tmp_path / "worst", max_drop=50, max_drop_worst=0)
    by_name = {c.name: c for c in result.candidates}
    loss = next(m.value for m in by_name["onnxruntime-int8"].measurements if m.name == "psnr_drop_worst")
    assert loss > 0, "the case needs an image that int8 makes worse"
    assert re.match(r"loses [\d.]+ dB on image 'crop\d' against the float network \(at most 0 on any\)", by_name["onnxruntime-int8"].reason)
    assert by_name["onnxruntime-fp32"].chosen
    with pytest.raises(StageFailed, match=r"onnxruntime-fp32: .*; is too large: [\d.]+ MB \(at most 0.001\)"):
        compile_stage(model_folder, target, tmp_path / "large", max_size=0.001)


def test_tiles_must_fit_the_network(model_folder: Path, jetson: Target, tmp_path: Path):
    with pytest.raises(UsageError, match=r"stages.compile.with.tile: 100 is no multiple"):
        compile_stage(model_folder, jetson, tmp_path / "work", tile=100)


def test_nothing_passing_fails_with_every_reason(model_folder: Path, tmp_path: Path):
    host = load_target("host").model_copy(update={"backends": ()})
    with pytest.raises(StageFailed, match=r"no candidate passes: .*onnxruntime-int8-host"):
        compile_stage(model_folder, host, tmp_path / "work")


def one_image(psnr: float) -> QualityResult:
    return QualityResult(("a",), (psnr,), (1.0,), (20.0,))


def judged(name: str, ms: float, verdict: str = "passed", psnr: float = 30.0, mb: float = 1.0) -> Judged:
    return Judged(Attempt(Plan(name, "fp32")), Parity(Verdict(verdict), "x"), one_image(psnr), ms, mb, ())


def test_the_choice():
    def name(*candidates: Judged) -> str:
        found = choose(candidates, Limits(one_image(30.0), 1.0, 1.0, 2.0))
        return found.attempt.plan.use if found else ""

    assert name(judged("a", 3), judged("b", 2)) == "b"
    assert name(judged("a", 3), judged("b", 2, "failed")) == "a"
    assert name(judged("a", 3), judged("b", 2, psnr=28.9)) == "a"
    assert name(judged("a", 3), judged("b", math.nan), judged("c", 2, psnr=math.nan)) == "a"
    assert name(judged("a", 3), judged("b", 2, "unproven")) == "a"  # no evidence is not a pass
    assert name(judged("b", 2, "unproven"), judged("c", 1, "unproven")) == "c"
    assert name(judged("a", 3), judged("b", 2, mb=2.1)) == "a"
    assert name(judged("a", 2), judged("b", 2, mb=0.9)) == "b"
    assert name(judged("a", 3, "failed")) == ""
    assert name() == ""


def test_plans_and_frames():
    target = load_target("jetson-xavier")
    names = ["tensorrt-int8", "tensorrt-fp16", "tvm-int8", "tvm-fp16", "tvm-fp32", "onnxruntime-int8", "onnxruntime-fp32"]
    assert [p.name for p in plans_for(target, threads=(1,))] == names
    assert [p.name for p in plans_for(target, ["tensorrt", "tvm"])] == [
        *names[:2],
        *(f"{name}{threads}" for name in names[2:5] for threads in ("", "-8t")),
    ]
    assert [p.artifact for p in plans_for(target, ["tvm"], (2, 4, 2))] == [
        "tvm-int8",
        "tvm-int8",
        "tvm-fp16",
        "tvm-fp16",
        "tvm-fp32",
        "tvm-fp32",
    ]
    assert thread_counts(target) == (1, 8)
    assert thread_counts(load_target("host")) == (1,)
    assert frame_of(target, 16) == (1088, 1920)
    assert all(p.for_host for p in plans_for(load_target("host")))


def test_threads_are_a_number_or_a_list():
    assert STAGE.config(threads=4).threads == (4,)
    assert STAGE.config(threads=[1, 4]).threads == (1, 4)
    assert STAGE.config().threads == ()
    for wrong in (0, [1, 0], "many"):
        with pytest.raises(ValidationError):
            STAGE.config(threads=wrong)


def test_the_stage_reads_what_it_declares():
    view = TargetView(load_target("jetson-xavier"), STAGE.reads_target)
    with pytest.raises(AttributeError, match="not declared"):
        _ = view.pays
    assert STAGE.measures == "host"
    assert STAGE.data == ("calibrate", "test")
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
    assert np.array_equal(restorer_of(Same(64, 64), 8, Receptive(0, (0, 0, 0, 0)))(image), image)


def test_first_is_the_beginning_of_a_source():
    photos = Photos()
    assert len(First(photos, 2)) == 2
    assert len(First(photos, 0)) == len(First(photos, 99)) == 3
    assert First(photos, 2)[1].name == "crop1"
    assert First(photos, 2).digest() == photos.digest()
