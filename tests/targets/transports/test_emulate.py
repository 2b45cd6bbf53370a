"""emulate: the bundle's scripts under qemu, here; what comes back counts for nothing but that it works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline.doctor
from targets.emulate.emulator import Emulator
from tests.boards.run_example import BOARD, make_run
from tests.pipeline.conftest import cli

__all__ = ["cli"]


@pytest.mark.slow
def test_an_emulated_result_verifies_and_never_counts(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    missing = Emulator("cortex-a76").missing()
    if missing:
        pytest.skip(f"needs emulation: {missing}")
    run, out = make_run(tmp_path / "run"), tmp_path / "result.json"
    (run / "board.yaml").write_text(BOARD.replace('{model: "^Toy Board"}', '{machine: "aarch64"}'))
    arguments = ("--seconds", "0.2", "--out", out, "--target", run / "board.yaml", "--ingest", run)
    code, said, err = cli("bench", run, "--on", "emulate:cortex-a76", *arguments)
    assert out.exists(), said + err
    result = json.loads(out.read_text())
    assert result["device"]["machine"] == "aarch64"
    assert result["verified"] is True
    assert (result["transport"]["function_only"], result["board"]["emulated"]) == (True, "cortex-a76")
    assert "its timings prove nothing" in said
    assert "(emulated, no speed)" in said
    assert (code, "which emulates the CPU" in err) == (4, True)
    assert not (run / "report.1.json").exists()


def test_doctor_takes_an_emulated_board_as_bench_does(cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch):
    missing = Emulator("cortex-a76").missing()
    if missing:
        pytest.skip(f"needs emulation: {missing}")
    for looked_for in ("_packages", "_backends"):
        monkeypatch.setattr(pipeline.doctor, looked_for, lambda *_: [])
    code, out, err = cli("doctor", "--target", "raspberry-pi-5", "--on", "emulate:cortex-a76")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "raspberry-pi-5 needs devices emulate:cortex-a76: nothing is missing"


def test_an_unknown_cpu_is_said(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    from tests.boards.bundle_example import small_bundle

    code, _, err = cli("bench", small_bundle(tmp_path / "bundle", "host"), "--on", "emulate:z80")
    assert (code, "no emulated CPU stands for 'z80'" in err) == (2, True)
