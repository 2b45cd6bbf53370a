"""A finished run on disk whose benchmark stage estimated a latency, and results of boards that fit it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report import render_html, render_markdown
from targets.transports.common.base import manifest_sha256
from tests.boards.bundle_example import NAME, small_bundle

BOARD = """
name: toy-board
title: A board for tests
cpu: {triple: aarch64-linux-gnu, mcpu: cortex-a76, features: [+neon], cores: 4}
rates:
  cpu: {macs: {fp32: 0.05}, bandwidth_gbs: 17, compute_efficiency: 0.5, depthwise_efficiency: 0.2, memory_efficiency: 0.6, launch_us: 5}
backends: [{use: onnxruntime, runs_on: cpu, precisions: [fp32]}]
opset: 17
channel_multiple: 8
frame: {width: 640, height: 480}
latency_budget_ms: 33.3
recognise: {model: "^Toy Board"}
"""

PIPELINE = """
version: 1
data: {}
stages:
  compile: {gates: [{metric: size, at_most: 3.2, unit: MB}]}
  benchmark:
    needs: {bundle: compile.bundle}
    gates: [{metric: latency_p90, at_most: target.latency_budget_ms, evidence: estimated}]
"""


def make_run(folder: Path, required: str | None = None, target: str = "toy-board", bundle: Path | None = None) -> Path:
    """Write a run of the two stages; returns its folder. The board's file is ``board.yaml`` in it."""
    folder.mkdir(parents=True)
    (folder / "board.yaml").write_text(BOARD)
    (folder / "pipeline.resolved.yaml").write_text(PIPELINE)
    (folder / "run.json").write_text(json.dumps({"target": target, "options": {"required": required}}))
    small_bundle(folder / "bundle", target) if bundle is None else shutil.copytree(bundle, folder / "bundle")
    report = _report(target, required)
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "report.md").write_text(render_markdown(report, folder))
    (folder / "report.html").write_text(render_html(report, folder))
    return folder


def measurement(name: str, value: float, unit: str, evidence: str, **conditions: Any) -> dict[str, Any]:
    return {
        **{"name": name, "value": value, "unit": unit, "better": "lower", "samples": 1, "evidence": evidence},
        "conditions": conditions,
    }


def _report(target: str, required: str | None) -> dict[str, Any]:
    estimates = [
        measurement(f"latency_{p}", v, "ms", "estimated", artifact=NAME, frame="640x480") for p, v in (("p50", 20.0), ("p90", 22.0))
    ]
    verdict = "unproven" if required else "passed"
    gate = {
        **{"metric": "latency_p90", "rule": "at_most", "bound": 33.3, "against": None, "statistic": "mean", "unit": "ms"},
        **{"value": None if required else 22.0, "evidence": None if required else "estimated", "verdict": verdict, "reason": ""},
    }
    size = {
        **{"metric": "size", "rule": "at_most", "bound": 3.2, "against": None, "statistic": "mean", "unit": "MB"},
        **{"value": 0.1, "evidence": "host", "verdict": "passed", "reason": ""},
    }
    chosen = {"name": NAME, "backend": "onnxruntime", "precision": "fp32", "chosen": True, "reason": "the fastest", "measurements": []}
    stages = [
        _stage("compile", [measurement("size", 0.1, "MB", "host")], [size], [chosen, {**chosen, "name": "other-fp32", "chosen": False}]),
        _stage("benchmark", estimates, [gate], []),
    ]
    return {
        **{"schema": 1, "target": target, "target_title": "A board for tests", "frame": "640x480", "latency_budget_ms": 33.3},
        **{"verdict": verdict, "seconds": 1.0, "started": "2026-03-01T12:00:03+0000", "host": {}, "bundle": "bundle", "stages": stages},
    }


def _stage(id_: str, rows: list[dict[str, Any]], gates: list[dict[str, Any]], candidates: list[dict[str, Any]]) -> dict[str, Any]:
    head = {"id": id_, "uses": f"{id_}.stage", "title": id_, "status": "ran", "key": "a" * 64, "seconds": 0.5, "measured_at": ""}
    return {**head, "outputs": {}, "measurements": rows, "gates": gates, "candidates": candidates, "notes": [], "error": None}


def timing(p50: float, count: int = 60) -> dict[str, Any]:
    """Times around a median in ms, with the statistics that they have."""
    times = p50 * (1 + 0.02 * np.linspace(-1, 1, count))
    p = [float(np.percentile(times, q)) for q in (50, 90, 99)]
    return {"p50_ms": p[0], "p90_ms": p[1], "p99_ms": p[2], "cv": 0.015, "count": count, "times_ms": times.tolist()}


def make_result(run: Path, p50: float = 25.0, **changes: Any) -> dict[str, Any]:
    """A board's result for a run's bundle: whole frames of ``p50`` ms."""
    result = {
        **{"schema": 2, "bundle_sha256": manifest_sha256(run / "bundle"), "artifact": NAME, "precision": "fp32", "verified": True},
        **{
            "golden": {"psnr": 81.5, "identical": False},
            "device": {"model": "Toy Board rev 2", "machine": "aarch64", "power_mode": {"name": "MAXN"}},
        },
        **{"protocol": {"threads": 4, "input": [32, 32], "frame": [480, 640]}, "kernel": timing(0.4), "frame": timing(p50)},
        **{"samples": {"energy_mj_per_frame": 120.0, "peak_rss_mb": 88.5, "throttled": []}, "stable": True, "unstable_reason": ""},
        **{"started": "2026-03-02T10:00:00Z", "seconds": 12.0},
    }
    return {**result, **changes}
