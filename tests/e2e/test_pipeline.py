from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.e2e.conftest import ROOT, artifacts_of, environment, pipeline, report_of, short_pipeline

pytestmark = pytest.mark.slow

STAGES = ["teach", "distill", "prune", "quantize", "compile", "benchmark"]


def stage(report: dict, name: str) -> dict:
    return next(s for s in report["stages"] if s["id"] == name)


def measured(report: dict, name: str, metric: str) -> list[dict]:
    return [m for m in stage(report, name)["measurements"] if m["name"] == metric]


def test_every_stage_runs_and_leaves_its_evidence(short_run):
    _, report = short_run
    assert [s["id"] for s in report["stages"]] == STAGES
    assert {s["status"] for s in report["stages"]} <= {"ran", "retreated"} and report["verdict"] == "passed"
    for name in STAGES[:4]:
        for metric in ("psnr", "ssim", "psnr_worst5", "psnr_gain", "size"):
            assert len(measured(report, name, metric)) == 1, (name, metric)
    assert [m["evidence"] for m in measured(report, "prune", "speedup")] == ["host"]


def test_no_number_measured_here_is_shown_as_the_board_s(short_run):
    folder, report = short_run
    rows = [m for s in report["stages"] for m in s["measurements"]]
    rows += [m for s in report["stages"] for c in s["candidates"] for m in c["measurements"]]
    assert {m["evidence"] for m in rows} == {"host", "estimated"}
    timed = measured(report, "benchmark", "latency_p90")
    assert {m["evidence"]: m["conditions"]["frame"] for m in timed} == {"estimated": "1920x1080", "host": "1920x1080"}
    html = (folder / ".pipeline" / "runs" / "latest" / "report.html").read_text()
    assert "measured on this host" in html and "estimated for jetson-xavier" in html


def test_the_int8_candidates_come_from_one_set_of_scales(short_run):
    _, report = short_run
    found = {c["name"]: c for c in stage(report, "compile")["candidates"]}
    assert {"tensorrt-int8", "tensorrt-fp16", "tvm-fp32", "onnxruntime-int8"} <= found.keys()
    assert all("scales and integers exact" in found[name]["reason"] for name in ("tensorrt-int8", "onnxruntime-int8"))
    assert sum(c["chosen"] for c in found.values()) == 1
    assert all(c["reason"] for c in found.values())


def test_the_report_needs_no_other_file(short_run):
    folder, _ = short_run
    html = (folder / ".pipeline" / "runs" / "latest" / "report.html").read_text()
    assert "data:image/" in html and "<svg" in html
    assert not any(mark in html for mark in ('src="http', 'href="http', "<script src", '<link rel="stylesheet"'))


def test_a_second_run_restores_every_stage_at_once(short_run):
    folder, report = short_run
    done = pipeline("run", folder / "pipeline.yaml", "--target", "jetson-xavier")
    again = report_of(folder / ".pipeline")
    assert done.returncode == 0 and {s["status"] for s in again["stages"]} == {"restored"}
    assert "warning: " not in done.stdout, "what suits the board badly is said where something is trained"
    assert artifacts_of(again) == artifacts_of(report)


def test_another_target_shares_what_does_not_depend_on_it(short_run):
    folder, report = short_run
    done = pipeline("run", folder / "pipeline.yaml", "--target", "host")
    other = report_of(folder / ".pipeline")
    assert done.returncode == 0, done.stderr
    assert [stage(other, s)["status"] for s in ("teach", "distill")] == ["restored"] * 2  # what is pruned depends on the target
    timed = measured(other, "benchmark", "latency_p90")
    assert "target" in {m["evidence"] for m in timed}, "this machine is its own target"


def test_the_bundle_verifies_itself_and_runs_by_its_own_script(short_run, tmp_path: Path):
    folder, _ = short_run
    bundle = folder / ".pipeline" / "runs" / "latest" / "bundle"
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "MANIFEST.sha256"], cwd=bundle, check=False)
    assert checked.returncode == 0
    facts = json.loads((bundle / "bundle.json").read_text())
    command = [sys.executable, "bench.py", "--artifact", facts["host"], "--seconds", "0.1", "--count", "3", "--force-board"]
    done = subprocess.run([*command, "--output", tmp_path / "result.json"], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3) and done.stdout.startswith("PASS"), done.stdout + done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["kernel"]["p50_ms"] > 0


def test_deblur_and_evaluate_take_a_checkpoint_and_a_bundle(short_run, tmp_path: Path):
    folder, report = short_run
    run = folder / ".pipeline" / "runs" / "latest"
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "odd.png"), np.random.default_rng(0).integers(0, 256, (133, 201, 3), dtype=np.uint8))
    for number, model in enumerate((run / stage(report, "prune")["outputs"]["model"]["path"], run / "bundle")):
        out = tmp_path / f"out{number}"
        done = pipeline("deblur", model, tmp_path / "in", "--out", out)
        assert done.returncode == 0, done.stderr
        assert cv2.imread(str(out / "odd.png")).shape == (133, 201, 3)
        done = pipeline("evaluate", model, "--pipeline", folder / "pipeline.yaml", "--role", "test", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


@pytest.mark.timeout(1800)  # a whole run, begun six times, and the shared one where this test runs alone
def test_a_run_killed_inside_every_stage_goes_on_and_ends_with_the_same_artifacts(short_run, tmp_path: Path):
    _, report = short_run
    path, workspace = short_pipeline(tmp_path), tmp_path / ".pipeline"
    words = ("run", path, "--target", "jetson-xavier")
    for cut in STAGES:  # a run goes on where the one before it was killed, and is killed one stage later
        process = subprocess.Popen([sys.executable, "-m", "pipeline", *words, "--quiet"], cwd=ROOT, env=environment())
        kill_inside(process, workspace, cut)
    done = pipeline(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    again = report_of(workspace)
    assert {s["status"] for s in again["stages"][:-1]} == {"restored"}, "what was done before a kill was done for good"
    assert stage(again, STAGES[-1])["status"] == "ran"
    timed = {"benchmark.estimate"}
    want = artifacts_of(report)
    assert {k: v for k, v in artifacts_of(again).items() if k not in timed} == {k: v for k, v in want.items() if k not in timed}


def kill_inside(process: subprocess.Popen, workspace: Path, cut: str) -> None:
    """SIGKILL the run after the stage has begun and done some of its work."""
    latest = workspace / "runs" / "latest" / "events.jsonl"
    deadline = time.monotonic() + 300
    try:
        while True:
            assert process.poll() is None, f"the run ended before it could be cut in {cut}"
            assert time.monotonic() < deadline, f"the run never came to {cut}"
            text = latest.read_text() if latest.exists() else ""
            events = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
            begun = any(e["event"] == "stage_started" and e["stage"] == cut for e in events)
            if begun and (workspace / "store" / "work").exists() and any_file(workspace / "store" / "work"):
                return
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def any_file(folder: Path) -> bool:
    return any(p.is_file() and p.suffix != ".lock" for p in folder.rglob("*"))
