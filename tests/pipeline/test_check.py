from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import preflight
from pipeline.config import load_pipeline
from pipeline.plan import Plan, make_plan
from pipeline.target import load_target

TOY = """
version: 1
data:
  train: {{source: samples, split: {train}, count: 2, size: 64}}
  calibrate: {{source: samples, split: calibrate, count: 2, size: 64}}
stages:
  toy: {{uses: tests.pipeline.toy_preflight, with: {{says: {says}, crop: {crop}}}}}
"""

STUDENT = """
version: 1
data:
  train: {source: samples, split: train, count: 2, size: 96}
  test: {source: samples, split: test, count: 2, size: 96}
  calibrate: {source: samples, split: calibrate, count: 2, size: 96}
stages:
  teach: {uses: distill.teach, with: {arch: nafnet, width: 4, enc_blk_nums: [1], middle_blk_num: 1, dec_blk_nums: [1], train: {crop: 64}}}
  distill: {uses: distill.student, needs: {teacher: teach.model}, with: {widths: [16, 24], depths: [1, 1], train: {crop: 64}}}
  quantize: {needs: {model: distill.model}}
  compile: {needs: {model: quantize.model}}
"""


@pytest.fixture
def toy(tmp_path: Path):
    def write(says: str = "nothing", crop: int = 16, train: str = "train") -> Path:
        path = tmp_path / "toy.yaml"
        path.write_text(TOY.format(says=says, crop=crop, train=train))
        return path

    return write


@pytest.fixture
def student_file(tmp_path: Path) -> Path:
    path = tmp_path / "student.yaml"
    path.write_text(STUDENT)
    return path


def plan_of(path: Path, target: str) -> Plan:
    return make_plan(path, load_pipeline(path), load_target(target))


def test_nothing_to_say(cli, toy, target_file):
    code, out, err = cli("check", toy(), "--target", target_file)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "toy.yaml for toy-board (A board for tests): toy"
    assert lines[1].startswith("data.calibrate: 2 pairs of 1 scene, the first 64x64 pixels")
    assert lines[-1].startswith("0 errors, 0 warnings, ")


def test_a_warning_is_no_failure(cli, toy, target_file):
    code, out, _ = cli("check", toy("warning"), "--target", target_file)
    assert code == 0
    assert "warning: stage toy: warning for toy-board\n" in out
    assert "0 errors, 1 warning, " in out


@pytest.mark.parametrize(("metric", "warnings"), [("pnsr", 1), ("latency_p95", 1), ("psnr", 0), ("my_own", 0)])
def test_a_gate_on_a_misspelt_measurement(cli, toy, target_file, metric, warnings):
    code, out, _ = cli("check", toy(), "--target", target_file, "--set", f"stages.toy.gates=[{{metric: {metric}, at_least: 1}}]")
    assert (code, out.count("warning: toy.yaml: stages.toy.gates.0.metric: ")) == (0, warnings)
    assert metric != "pnsr" or "'pnsr' is no measurement that is known; did you mean 'psnr'?\n" in out


@pytest.mark.parametrize(("says", "code", "level"), [("usage", 2, "error"), ("missing", 6, "missing")])
def test_what_would_stop_a_run(cli, toy, target_file, says, code, level):
    found, out, err = cli("check", toy(says), "--target", target_file)
    what = {"usage": "toy: has a wrong value\nhint: give another", "missing": "toy: its compiler is not there\nhint: apt-get install toy"}
    assert (found, err) == (code, what[says] + "\n")
    assert f"{level}: toy: " in out
    assert "1 error, 0 warnings" in out


def test_images_smaller_than_the_training_crop(cli, toy, target_file):
    code, out, err = cli("check", toy(crop=65), "--target", target_file)
    assert code == 2
    assert "toy.yaml: data.train: its first pair is 64x64 pixels, smaller than the training crop of 65\nhint: give larger images" in err


def test_calibrating_with_what_was_trained_on(cli, toy, target_file):
    code, out, _ = cli("check", toy(train="calibrate"), "--target", target_file)
    assert code == 0
    assert "warning: toy.yaml: data.calibrate: 1 of its 1 scenes are also in data.train ('" in out


def test_json(cli, toy, target_file):
    code, out, _ = cli("check", toy("missing"), "--target", target_file, "--json")
    found = json.loads(out)
    assert code == 6
    assert (found["pipeline"], found["target"], found["stages"]) == ("toy.yaml", "toy-board", ["toy"])
    assert found["data"][0] == {"role": "calibrate", "pairs": 2, "scenes": 1, "size": [64, 64]}
    finding = {"level": "missing", "where": "toy", "what": "its compiler is not there", "hint": "apt-get install toy"}
    assert (found["findings"], found["errors"], found["warnings"], found["forecasts"]) == ([finding], 1, 0, [])


def test_a_wrong_pipeline_file_is_an_error_before_all(cli, toy, target_file):
    code, _, err = cli("check", toy(), "--target", target_file, "--set", "stages.toy.with.say=x")
    assert code == 2
    assert "stages.toy.with.say: unknown key\nhint: did you mean 'says'?" in err


def test_a_package_that_is_missing_comes_with_its_install_line(toy, target_file):
    plan = plan_of(toy(), str(target_file))
    stage = plan.stages[0]
    lacking = replace(stage, spec=replace(stage.spec, toolchain=("pydantic", "no-such-package")))
    (finding,) = preflight.toolchains(replace(plan, stages=(lacking,)))
    assert (finding.level, finding.where) == ("missing", "stage toy")
    assert finding.what == "needs no-such-package, which is not installed"
    assert finding.error.hint == "pip install no-such-package"


@pytest.mark.parametrize(("name", "extra"), [("torch", "train"), ("torch-pruning", "train"), ("onnx", "onnx"), ("lmdb", "lmdb")])
def test_the_extra_that_brings_a_package(name, extra):
    assert preflight.install_line(name) == f'pip install -e ".[{extra}]"'


def test_crops_are_found_at_any_depth():
    assert list(preflight.crops({"crop": 8, "train": {"crop": 16}, "phases": [{"crop": 32}], "other": "crop"})) == [8, 16, 32]


def test_a_student_that_suits_the_board(cli, student_file):
    code, out, _ = cli("check", student_file, "--target", "jetson-xavier", "--json")
    found = json.loads(out)
    assert (code, found["findings"]) == (0, [])
    (forecast,) = found["forecasts"]
    assert (forecast["what"], forecast["backend"], forecast["precision"]) == ("student", "tensorrt", "int8")
    p90 = next(m for m in forecast["measurements"] if m["name"] == "latency_p90")
    assert (p90["evidence"], p90["unit"], p90["conditions"]["frame"]) == ("estimated", "ms", "1920x1080")


def test_kept_to_one_backend_it_is_about_that_one(cli, student_file):
    def checked(*more: str) -> dict:
        code, out, err = cli("check", student_file, "--target", "jetson-xavier", "--json", *more)
        assert code == 0, err
        return json.loads(out)

    (forecast,) = checked("--backend", "onnxruntime")["forecasts"]
    assert forecast["backend"] == "onnxruntime"
    gates = "--set", "stages.distill.with.se_from=0"
    assert any("CPU see a tile at a time" in f["what"] for f in checked(*gates)["findings"])
    assert not any("CPU see a tile at a time" in f["what"] for f in checked(*gates, "--backend", "tensorrt")["findings"])


def test_where_one_stage_is_kept_to_a_backend_and_another_is_not_it_is_about_all(student_file):
    student_file.write_text(student_file.read_text() + "  again: {uses: compile.stage, needs: {model: quantize.model}}\n")
    settings = "stages.distill.with.se_from=0", "stages.compile.with.backends=[tensorrt]"
    plan = make_plan(student_file, load_pipeline(student_file, settings), load_target("jetson-xavier"))

    def told(plan: Plan) -> bool:
        return any("CPU see a tile at a time" in f.what for f in preflight.stages(plan))

    assert told(plan)
    assert not told(replace(plan, stages=plan.stages[:-1]))


@pytest.mark.parametrize("verb", [("check",), ("plan",), ("explain", "compile")])
def test_backends_are_named_as_for_run(cli, student_file, verb):
    code, _, err = cli(verb[0], student_file, *verb[1:], "--target", "jetson-xavier", "--backend", "tensort")
    said = "--backend: target 'jetson-xavier' names no backend 'tensort'\nhint: did you mean 'tensorrt'?\n"
    assert (code, err) == (2, said)


def test_a_student_that_fights_the_board_is_told_before_training(cli, student_file):
    settings = "stages.distill.with.widths=[132, 196]", "stages.distill.with.activation=hardswish", "stages.distill.with.upsample=deconv"
    code, out, _ = cli("check", student_file, "--target", "jetson-xavier", *(x for s in settings for x in ("--set", s)))
    assert code == 0
    for what in (
        "activations are hardswish, which does not pay on jetson-xavier",
        "up-samples 1 times by deconv",
        "have a width that is no multiple of 8",
        "student.yaml for jetson-xavier: the student takes an estimated",
    ):
        assert what in out
    assert [f.where for f in preflight.warnings(plan_of(student_file, "jetson-xavier"))] == []


def test_a_backend_option_that_is_refused(cli, student_file, tmp_path):
    board = tmp_path / "board.yaml"
    shipped = Path(__file__).resolve().parent.parent.parent / "targets" / "jetson-xavier.yaml"
    board.write_text(shipped.read_text().replace("{workspace_mib: 2048}", "{workspace_mib: 2048, dla: true}"))
    code, _, err = cli("check", student_file, "--target", board)
    assert code == 2
    assert err.startswith("target: backends.tensorrt.options.dla: a DLA takes no Q/DQ nodes")
