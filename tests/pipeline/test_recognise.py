"""Whether a board is the target, from what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import machine
from pipeline.ingest.identity import described, unlike
from pipeline.ingest.result import DeviceResult
from pipeline.machine import machine_facts
from pipeline.target import Target, load_target

XAVIER = {"model": "NVIDIA Jetson AGX Xavier Developer Kit", "l4t": "R35.2.1", "compatible": "nvidia,p2972-0000 nvidia,tegra194"}


def target(**recognise: Any) -> Target:
    return load_target("jetson-xavier").model_copy(update={"recognise": recognise})


@pytest.mark.parametrize(
    ("rules", "identity", "words"),
    [
        ({"model": "AGX Xavier", "l4t": r"R35\.[2-4]"}, XAVIER, ""),
        ({"model": "AGX Orin"}, XAVIER, "its model is 'NVIDIA Jetson AGX Xavier Developer Kit', expected 'AGX Orin'"),
        ({"model": "Xavier", "l4t": r"R36\."}, XAVIER, r"its l4t is 'R35.2.1', expected 'R36\.'"),
        ({"model": "Xavier"}, {}, "its model is unknown, expected 'Xavier'"),
        ({"cuda": "7.2"}, XAVIER, ""),
        ({"cuda": "8.7"}, XAVIER, "its cuda is '7.2', expected '8.7'"),
        ({"cuda": "8.7"}, {"model": "a chip that nobody knows"}, ""),
        ({"cpu_flags": ("asimddp",)}, {"features": "fp asimd asimddp"}, ""),
        ({"cpu_flags": ("asimddp",)}, {"features": ["fp", "asimddp"]}, ""),
        ({"cpu_flags": ("asimddp", "i8mm")}, {"features": "fp asimddpx"}, "its CPU lacks asimddp, i8mm"),
        ({"cpu_flags": ("asimddp",)}, {}, "its CPU lacks asimddp"),
        ({"android": {"ro.product.cpu.abi": "^arm64-v8a$"}}, {"ro.product.cpu.abi": "arm64-v8a"}, ""),
        ({"android": {"ro.product.cpu.abi": "^arm64-v8a$"}}, {"abi": "arm64-v8a"}, ""),
        (
            {"android": {"ro.product.cpu.abi": "^arm64-v8a$"}},
            {"abi": "x86_64"},
            "its ro.product.cpu.abi is 'x86_64', expected '^arm64-v8a$'",
        ),
    ],
)
def test_what_is_stated_is_held_against_what_the_board_says(rules: dict[str, Any], identity: dict[str, Any], words: str):
    assert unlike(target(**rules), identity) == words


def test_a_target_that_states_nothing_recognises_nobody():
    assert "does not say how to recognise the board" in unlike(target(), XAVIER)
    assert "does not say how to recognise the board" in unlike(target(model="", cpu_flags=()), XAVIER)


def test_the_host_is_this_machine():
    facts = machine_facts()
    host = load_target("host")
    assert unlike(host, {"machine": facts["arch"], "cpu": facts["cpu"]}) == ""
    assert "its machine is 'unknown'" in unlike(host, {})
    assert "its cpu is 'Cray-1'" in unlike(host, {"machine": facts["arch"], "cpu": "Cray-1"})


def test_on_arm_a_result_of_this_machine_is_the_host_s(monkeypatch: pytest.MonkeyPatch):
    """There the board's script reads a part number, and only what was brought here by the pipeline has the processor's name."""
    monkeypatch.setattr(machine, "cpu_model", lambda: "Raspberry Pi 5 Model B Rev 1.0")
    own, arch = {"cpu": "Raspberry Pi 5 Model B Rev 1.0"}, machine_facts()["arch"]
    given = {"schema": 2, "bundle_sha256": "0" * 64, "artifact": "x", "precision": "fp32", "verified": True, "golden": {"psnr": 80.0}}
    result = {**given, "stable": True, "device": {"machine": arch, "cpu": "0xd0b"}, "board": {"machine": arch, **own}}
    assert unlike(load_target("host"), DeviceResult(**result, transport={"scheme": "local", "name": "local"}).identity) == ""
    there = DeviceResult(**result, transport={"scheme": "ssh", "name": "ssh://pi"}).identity
    assert "its cpu is '0xd0b', here 'Raspberry Pi 5" in unlike(load_target("host"), there)


def test_a_board_in_words():
    assert described(XAVIER) == "NVIDIA Jetson AGX Xavier Developer Kit (R35.2.1)"
    assert described({"machine": "aarch64"}) == "aarch64"
    assert described({}) == "a board that says nothing of itself"
