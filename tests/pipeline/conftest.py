from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

PIPELINE = """
version: 1
seed: 3
data: {}
stages:
  first:
    uses: tests.pipeline.toy_source
    with: {text: hi}
    gates: [{metric: psnr, at_least: 25}]
  second:
    uses: tests.pipeline.toy_next
    needs: {model: first.model}
    gates: [{metric: psnr, drop_at_most: 0.5, against: first}]
"""

TARGET = """
name: toy-board
title: A board for tests
cpu: {triple: aarch64-linux-gnu, mcpu: cortex-a76, features: [+neon], cores: 4}
rates:
  cpu:
    macs: {fp32: 0.05, int8: 0.2}
    bandwidth_gbs: 17
    compute_efficiency: 0.5
    depthwise_efficiency: 0.2
    memory_efficiency: 0.6
    launch_us: 5
backends: [{use: onnxruntime, runs_on: cpu, precisions: [fp32, int8]}]
opset: 17
channel_multiple: 8
frame: {width: 640, height: 480}
latency_budget_ms: 33.3
"""


@pytest.fixture
def pipeline_file(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.fixture
def target_file(tmp_path: Path) -> Path:
    path = tmp_path / "board.yaml"
    path.write_text(TARGET)
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    from pipeline.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call
