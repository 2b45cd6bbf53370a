"""``run --backend`` narrows what the compile stage tries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.key import key_of, key_parts
from pipeline.opening import narrowed_plan
from pipeline.target import TARGETS_DIR

ABSENT = "tests.compile.natives.absent"


@pytest.fixture
def pipeline(tmp_path: Path, model_folder: Path) -> Path:
    stages = {
        "hand": {"uses": "tests.compile.natives.hand_on", "with": {"folder": str(model_folder)}},
        "compile": {
            "needs": {"model": "hand.model"},
            "with": {"tile": 96, "seconds": 0.05, "images": 1, "max_drop": 50, "max_drop_worst": 50},
        },
    }
    data = {split: {"source": "samples", "split": split, "size": 96} for split in ("calibrate", "test")}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"version": 1, "data": data, "stages": stages}, sort_keys=False))
    return tmp_path / "p.yaml"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The host, which also names a backend that is not installed."""
    content = yaml.safe_load((TARGETS_DIR / "host.yaml").read_text())
    content["backends"].append({"use": ABSENT, "runs_on": "cpu", "precisions": ["fp32"]})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "mine.yaml"


def test_only_the_named_backends_are_tried(pipeline: Path, target: Path, capsys: pytest.CaptureFixture[str]):
    code = main(["run", str(pipeline), "--target", str(target), "--backend", "openvino", "--backend", "onnxruntime", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    [compiled] = [s for s in report["stages"] if s["id"] == "compile"]
    assert {c["backend"] for c in compiled["candidates"]} == {"onnxruntime", "openvino"}
    resolved = yaml.safe_load((pipeline.parent / ".pipeline/runs/latest/pipeline.resolved.yaml").read_text())
    assert list(resolved["stages"]["compile"]["with"]["backends"]) == ["openvino", "onnxruntime"]


def test_a_named_backend_that_is_not_installed_is_exit_6_with_the_line_that_installs_it(
    pipeline: Path, target: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", str(pipeline), "--target", str(target), "--backend", ABSENT, "--quiet"]) == 6
    assert "pip install a-package-that-nobody-wrote" in capsys.readouterr().err


def test_an_unknown_name_is_exit_2_before_anything_runs(pipeline: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", str(pipeline), "--target", "host", "--backend", "litrt"]) == 2
    assert capsys.readouterr().err == "--backend: target 'host' names no backend 'litrt'\nhint: did you mean 'litert'?\n"
    assert not (pipeline.parent / ".pipeline").exists()


def test_a_pipeline_that_chooses_no_backend_is_refused(tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]):
    stages = {"hand": {"uses": "tests.compile.natives.hand_on", "with": {"folder": str(model_folder)}}}
    (tmp_path / "q.yaml").write_text(yaml.safe_dump({"version": 1, "data": {}, "stages": stages}))
    assert main(["run", str(tmp_path / "q.yaml"), "--target", "host", "--backend", "tvm"]) == 2
    assert "no stage of q.yaml chooses between backends" in capsys.readouterr().err


def test_the_names_are_part_of_the_stage_s_key_alone(pipeline: Path):
    def keys(*backends: str) -> list[str]:
        plan = narrowed_plan(pipeline, "host", [], list(backends))
        return [key_of(key_parts(plan, s, dict.fromkeys(s.needs, "0" * 64))) for s in plan.stages]

    every, some, same = keys(), keys("tvm"), keys("tvm", "tvm")
    assert every[0] == some[0]
    assert every[1] != some[1]
    assert some == same
