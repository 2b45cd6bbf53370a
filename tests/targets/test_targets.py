from __future__ import annotations

import re

import pytest

from compile.tensorrt.flags import trtexec_of
from eval.session import load_backend
from pipeline.target import TARGETS_DIR, known_targets, load_target

TARGETS = known_targets()
MARKS = ("(checked)", "(memory)", "(assumed)", "nominal", "x 1 FMA x")


def test_the_promised_targets_are_there():
    assert set(TARGETS) >= {"host", "jetson-xavier", "raspberry-pi-5", "android-arm64"}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_complete(name: str):
    target = load_target(name)
    assert target.name == name
    assert target.opset <= 17
    assert all(b.runs_on in target.rates for b in target.backends)
    assert target.is_host == (name == "host")
    for backend in target.backends:
        assert load_backend(backend.use).name == backend.use
        for precision in backend.precisions:
            assert precision in target.rates[backend.runs_on].macs
        if backend.use == "tensorrt":
            assert trtexec_of(backend.version).build_only == "buildOnly"


@pytest.mark.parametrize("name", TARGETS)
def test_every_constant_of_the_rates_says_where_it_comes_from(name: str):
    lines = (TARGETS_DIR / f"{name}.yaml").read_text().splitlines()
    start, end = lines.index("rates:"), lines.index("backends:")
    for number in range(start + 1, end):
        line = lines[number]
        if re.match(r"\s+\w+: [0-9.]+", line):
            said = line + (lines[number - 1] if lines[number - 1].lstrip().startswith("#") else "")
            assert any(mark in said for mark in MARKS), line


def test_jetson_xavier_is_the_board_under_jetpack_5_1():
    t = load_target("jetson-xavier")
    assert (t.python, t.glibc, t.opset, t.gpu.arch, t.cpu.mcpu) == ("3.8", "2.31", 17, "sm_72", "carmel")
    assert "dotprod" not in "".join(t.cpu.features)
    assert t.backends[0].version == "8.5.2"
    assert (t.frame.width, t.frame.height) == (1920, 1080)
    assert t.latency_budget_ms == pytest.approx(1000 / 45, abs=0.05)
    gpu = t.rates["gpu"]
    assert (gpu.macs["int8"], gpu.macs["fp16"], gpu.bandwidth_gbs) == (11.0, 5.5, 137)
