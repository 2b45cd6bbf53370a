"""Timing networks and files in turn, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.readers.samples import READER
from eval.latency import LatencyResult
from eval.payoff import BACKEND, THREADS, ModelFile, quality, speed_measurements, tile_side, time_files, time_networks
from eval.quality import evaluate, torch_restorer
from models.arch import build
from models.export import export_onnx
from pipeline.contract import Better, Evidence


def student(width):
    torch.manual_seed(0)
    return build("student", {"widths": [width, width, width], "depths": [1, 1, 1], "decoder_depths": [1, 1]}).eval()


def test_networks_are_timed_in_turn_and_the_wider_one_is_slower(tmp_path):
    times = time_networks({"narrow": student(8), "wide": student(64)}, tmp_path, 100, 0.05)
    assert list(times) == ["narrow", "wide"]
    assert len(times["narrow"].ms) == len(times["wide"].ms) >= 10
    assert times["wide"].p50 > times["narrow"].p50
    assert sorted(p.name for p in tmp_path.iterdir()) == ["narrow.onnx", "wide.onnx"]


def test_files_of_free_size_are_timed_for_the_time_asked(tmp_path):
    export_onnx(student(8), tmp_path / "a.onnx")
    file = ModelFile(tmp_path / "a.onnx", "fp32")
    result = time_files({"a": file}, 64, 0.02, count=4)["a"]
    assert len(result.ms) >= 4
    assert sum(result.ms) >= 20
    assert file.facts["backend"] == f"compile.{BACKEND}"


@pytest.mark.parametrize(("multiple", "tile", "side"), [(8, 256, 256), (8, 100, 96), (48, 20, 48), (1, 7, 7)])
def test_the_tile_is_a_multiple_that_the_network_takes(multiple, tile, side):
    assert tile_side(multiple, tile) == side


def test_what_is_measured_says_against_what_and_where():
    before, after = LatencyResult((10.0, 20.0, 30.0)), LatencyResult((5.0, 10.0, 10.0))
    latency, ratio = speed_measurements(before, after, 96, "int8", "fp32")
    assert (latency.name, latency.value, latency.unit) == ("latency_p50", 10.0, "ms")
    assert (ratio.name, ratio.value, ratio.unit, ratio.better, ratio.samples) == ("speedup", 2.0, "x", Better.HIGHER, 3)
    assert ratio.evidence is latency.evidence is Evidence.HOST
    assert ratio.conditions["against"] == "fp32"
    assert {k: latency.conditions[k] for k in ("frame", "threads", "backend", "precision")} == {
        "frame": "96x96",
        "threads": THREADS,
        "backend": BACKEND,
        "precision": "int8",
    }


def test_quality_is_that_of_the_network(tmp_path):
    network, source = student(8), READER.open(READER.config(split="test", count=2, size=72), Path(), 1)
    export_onnx(network, tmp_path / "a.onnx")
    measured = quality(ModelFile(tmp_path / "a.onnx", "fp32"), 8, source, tmp_path / "samples")
    assert np.allclose(measured.psnr, evaluate(torch_restorer(network), source).psnr, atol=0.01)
    assert len(list((tmp_path / "samples").glob("*.png"))) == 2
