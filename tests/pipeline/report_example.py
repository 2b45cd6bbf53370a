"""A realistic run on disk: report.json and the sample pictures that it refers to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np

TARGET = "jetson-xavier"
NAMES = ("astronaut", "coffee", "chelsea", "rocket")
SIDE = 192


def measurement(name: str, value: float, unit: str, evidence: str = "host", **extra: Any) -> dict[str, Any]:
    if not math.isfinite(value):  # as pipeline.serial writes it
        extra["conditions"] = {"not_finite": str(value)}
    better = "higher" if name.startswith(("psnr", "ssim", "parity")) else "lower"
    base = {
        "name": name,
        "value": value if math.isfinite(value) else None,
        "unit": unit,
        "better": better,
        "samples": 4,
        "evidence": evidence,
        "conditions": {},
        "values": [],
    }
    return base | extra


def latency(value: float, evidence: str, frame: str, **conditions: Any) -> list[dict[str, Any]]:
    shared = {"frame": frame, "threads": 1} | conditions
    points = (("p50", 1.0), ("p90", 1.08), ("p99", 1.2))
    return [measurement(f"latency_{p}", value * f, "ms", evidence, samples=40, conditions=shared) for p, f in points]


def gate(metric: str, rule: str, bound: float, value: float | None, verdict: str, **extra: Any) -> dict[str, Any]:
    base = {"metric": metric, "rule": rule, "bound": bound, "against": None, "statistic": "mean", "value": value, "unit": ""}
    return base | {"evidence": "host", "verdict": verdict, "reason": ""} | extra


def candidate(name: str, chosen: bool, reason: str, *measurements: dict[str, Any]) -> dict[str, Any]:
    backend, _, precision = name.rpartition("-")
    return {
        "name": name,
        "backend": backend,
        "precision": precision,
        "chosen": chosen,
        "reason": reason,
        "measurements": list(measurements),
    }


def quality(psnr: float, ssim: float, blurred: float = 25.41) -> list[dict[str, Any]]:
    return [
        measurement("psnr", psnr, "dB", values=[psnr - 1.2, psnr + 0.9, psnr + 0.4, psnr - 0.1]),
        measurement("ssim", ssim, ""),
        measurement("psnr_worst5", psnr - 1.4, "dB"),
        measurement("psnr_gain", psnr - blurred, "dB"),
    ]


def cost(params: float, macs: float, size: float) -> list[dict[str, Any]]:
    return [measurement("params", params, "M"), measurement("macs", macs, "G"), measurement("size", size, "MB")]


def stage(stage_id: str, uses: str, title: str, status: str, seconds: float, **extra: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"id": stage_id, "uses": uses, "title": title, "status": status, "key": "ab" * 32, "seconds": seconds}
    base["measured_at"] = "2026-03-01T11:58:40+0000"
    empty: dict[str, Any] = {"outputs": {}, "measurements": [], "gates": [], "candidates": [], "notes": [], "error": None}
    return base | empty | extra


def samples_output(stage_id: str) -> dict[str, Any]:
    return {"samples": {"kind": "samples", "path": f"stages/{stage_id}/samples", "sha256": "0" * 64, "bytes": 1, "facts": {}}}


def example_report() -> dict[str, Any]:
    """A run with a verdict of every sort: passed, failed and unproven gates, a retreat, candidates, NaN, missing numbers."""
    stages = [
        stage(
            "teach",
            "distill.teach",
            "NAFNet, width 16",
            "restored",
            0.4,
            measurements=quality(27.62, 0.8412) + cost(1.72, 5.91, 6.94) + latency(148.0, "host", "256x256"),
            gates=[gate("psnr_gain", "at_least", 1.0, 2.21, "passed", unit="dB")],
            outputs=samples_output("teach"),
        ),
        stage(
            "distill",
            "distill.student",
            "MobileNetV3-style U-Net from the teacher",
            "ran",
            187.2,
            measurements=quality(27.21, 0.8327) + cost(0.412, 1.37, 1.71) + latency(31.4, "host", "256x256"),
            gates=[gate("psnr", "drop_at_most", 0.5, 0.41, "passed", against="teach", statistic="ci", unit="dB")],
            outputs=samples_output("distill"),
        ),
        stage(
            "prune",
            "prune.stage",
            "L1 channel pruning and recovery",
            "retreated",
            96.0,
            measurements=quality(26.86, 0.8264) + cost(0.287, 0.94, 1.2) + latency(24.9, "host", "256x256"),
            gates=[gate("psnr", "drop_at_most", 0.3, 0.35, "failed", against="distill", unit="dB")],
            candidates=[
                candidate("ratio-0.3", False, "0.62 dB below distill, allowed 0.30 dB", measurement("psnr", 26.59, "dB")),
                candidate(
                    "ratio-0.2", True, "the mildest ratio that pays", measurement("speedup", 1.26, "x"), measurement("psnr", 26.86, "dB")
                ),
            ],
            notes=["Retreated from ratio 0.3 to 0.2: the gate on PSNR failed."],
            outputs=samples_output("prune"),
        ),
        _quantize(),
        _compile(),
        _benchmark(),
    ]
    return {
        "schema": 1,
        "target": TARGET,
        "target_title": "NVIDIA Jetson AGX Xavier, JetPack 5.1",
        "frame": "1920x1080",
        "latency_budget_ms": 22.2,
        "verdict": "failed",
        "seconds": 431.2,
        "bundle": "bundle",
        "started": "2026-03-01T12:00:03+0000",
        "host": {"cpu": "AMD EPYC 9B14", "cores": 2, "arch": "x86_64", "system": "Linux 6.1", "python": "3.11.9"},
        "stages": stages,
    }


def _quantize() -> dict[str, Any]:
    return stage(
        "quantize",
        "quantize.stage",
        "QAT to symmetric int8",
        "ran",
        74.5,
        measurements=[*quality(26.79, 0.8241), *cost(0.287, 0.94, 0.39), measurement("lpips", math.nan, "")],
        gates=[gate("psnr", "drop_at_most", 0.2, 0.07, "passed", against="prune", statistic="worst", unit="dB")],
        outputs=samples_output("quantize"),
    )


def _compile() -> dict[str, Any]:
    host = latency(9.8, "host", "256x256", backend="onnxruntime")
    return stage(
        "compile",
        "compile.stage",
        "Every backend and precision, the fastest that passes",
        "ran",
        58.1,
        measurements=[measurement("size", 0.41, "MB"), measurement("parity_psnr", 61.7, "dB"), *host],
        gates=[gate("size", "at_most", 3.2, 0.41, "passed", unit="MB")],
        candidates=[
            candidate("onnxruntime-int8", True, "fastest that passes", measurement("psnr", 26.79, "dB"), *host),
            candidate("onnxruntime-fp32", False, "2.4× slower", measurement("psnr", 26.86, "dB"), *latency(23.5, "host", "256x256")),
            candidate("tvm-int8", False, "parity 41 dB | <60 dB>", measurement("psnr", 26.1, "dB"), *latency(19.5, "host", "256x256")),
            candidate("tensorrt-int8", False, "built on the board", *latency(18.3, "estimated", "1920x1080")),
        ],
    )


def _benchmark() -> dict[str, Any]:
    estimated = latency(18.3, "estimated", "1920x1080", backend="tensorrt")
    return stage(
        "benchmark",
        "eval.benchmark",
        "Quality and latency of the bundle",
        "ran",
        14.9,
        measurements=[*quality(26.78, 0.8240), measurement("size", 0.41, "MB"), *latency(412.0, "host", "1920x1080"), *estimated],
        gates=[
            gate("latency_p90", "at_most", 22.2, 19.76, "passed", evidence="estimated", unit="ms"),
            gate("latency_p90", "at_most", 22.2, None, "unproven", evidence=None, unit="ms", reason="no evidence 'target'"),
            gate("lpips", "at_most", 0.2, None, "failed"),
        ],
        outputs=samples_output("benchmark"),
    )


def write_example(run_dir: Path) -> dict[str, Any]:
    """Write the example run: report.json and the pictures."""
    report = example_report()
    _pictures(run_dir, report)
    (run_dir / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return report


def _pictures(run_dir: Path, report: dict[str, Any]) -> None:
    blur = {"teach": 0.45, "distill": 0.52, "prune": 0.58, "quantize": 0.6, "benchmark": 0.6}
    for name in NAMES:
        sharp = _photo(name)
        kernel = np.zeros((15, 15), np.float32)
        kernel[7] = 1 / 15
        blurred = cv2.filter2D(sharp, -1, kernel)
        write_png(run_dir / "samples" / "sharp" / f"{name}.png", sharp)
        write_png(run_dir / "samples" / "blurred" / f"{name}.png", blurred)
        for entry in report["stages"]:
            if entry["outputs"]:
                mixed = cv2.addWeighted(blurred, blur[entry["id"]], sharp, 1 - blur[entry["id"]], 0)
                write_png(run_dir / "stages" / entry["id"] / "samples" / f"{name}.png", mixed)


def _photo(name: str) -> np.ndarray:
    from skimage import data

    image = cv2.cvtColor(getattr(data, name)(), cv2.COLOR_RGB2BGR)
    return np.ascontiguousarray(image[40 : 40 + SIDE, 60 : 60 + SIDE])


def write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
