"""bench --calibrate: real microbenchmarks on real ways to a machine; a short set of small ones, so that the tests are fast."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.calibration import age, described, read, refined
from pipeline.target import load_target
from targets.microbench import Micro
from tests.boards.bundle_example import small_bundle
from tests.boards.run_example import BOARD, make_run
from tests.targets.transports.adbd import Device
from tests.targets.transports.plain_sshd import PlainSshd, plain_sshd
from tests.targets.transports.test_adb import device, server

__all__ = ["device", "server"]

Cli = Callable[..., tuple[int, str, str]]

SHORT = [Micro("none", c, u) for c, u in ((16, 1), (16, 2), (64, 2))] + [
    Micro(kind, c, 2, 1) for kind in ("dense", "depthwise", "add") for c in (16, 32, 64)
]
CALIBRATE = ("--calibrate", "--seconds", 1, "--count", 6)
GPU = """
gpu: {name: synthetic, arch: sm_72}
"""
GPU_RATES = "  gpu: {macs: {int8: 11, fp16: 5.5, fp32: 0.7}, bandwidth_gbs: 137, compute_efficiency: 0.2, depthwise_efficiency: 0.03,"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A short set of small images, and a folder for temporary files that must be empty afterwards."""
    import tempfile

    from compile import calibrate

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(calibrate, "default_set", lambda: SHORT)
    monkeypatch.setattr(calibrate, "SIDES", {"cpu": (64, 32), "gpu": (64, 32)})
    return folder


def steady(answer: tuple[int, str, str]) -> tuple[str, str]:
    """What a calibration said; skips where this machine was too busy to be timed."""
    code, said, err = answer
    if code == 4 and "the timing was unstable" in err:
        pytest.skip(f"this machine is too busy for a steady timing: {err}")
    assert code == 0, said + err
    return said, err


@pytest.fixture
def host_run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "ws/runs/20260302-100000-host", target="host")


def test_a_calibration_is_recorded_in_the_runs_workspace_and_used_from_then_on(host_run: Path, cli: Cli, short: Path, tmp_path: Path):
    said, _ = steady(cli("bench", host_run, "--on", "local", *CALIBRATE))
    (path,) = (tmp_path / "ws/calibration").glob("host-*.json")
    assert str(path) in said
    (kept,) = read(path).recorded
    assert (kept.calibration.backend, kept.calibration.precision, kept.calibration.threads) == ("onnxruntime", "fp32", 1)
    assert {r["network"] for r in kept.rows} == {f"{m.name}-{side}" for m in SHORT for side in (64, 32)}
    assert all(r["ms"] > 0 and r["count"] >= 6 for r in kept.rows)
    assert f"recorded: {described(kept)}" in said
    assert "24 microbenchmarks" in said
    assert " ms (roofline) before, " in said
    assert " ms (calibrated" in said.rpartition("before, ")[2]
    assert refined(load_target("host"), tmp_path / "ws").rates["cpu"].calibrations == (kept.calibration,)
    assert list(short.glob("deblur-*")) == []

    again, _ = steady(cli("bench", host_run, "--on", "local", *CALIBRATE, "--json"))
    assert json.loads(again)["calibration"]["networks"] == 24
    assert len(read(path).recorded) == 1


def test_what_is_replaced_is_said_with_its_age(host_run: Path, cli: Cli, tmp_path: Path):
    steady(cli("bench", host_run, "--on", "local", *CALIBRATE))
    (path,) = (tmp_path / "ws/calibration").glob("host-*.json")
    tree = json.loads(path.read_text())
    tree["recorded"][0]["when"] = "2026-01-01T00:00:00Z"
    path.write_text(json.dumps(tree))
    said, _ = steady(cli("bench", host_run, "--on", "local", *CALIBRATE))
    (line,) = [x for x in said.splitlines() if x.startswith("replaces: ")]
    assert "onnxruntime fp32 on the cpu 1 thread: 24 microbenchmarks" in line
    assert line.endswith(" days old")


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainSshd]:
    server = plain_sshd(tmp_path_factory.mktemp("s"))
    server.start()
    monkeypatch.setenv("PATH", f"{server.folder / 'client'}:{os.environ['PATH']}")
    yield server
    server.stop()


@pytest.mark.slow
def test_over_ssh(host_run: Path, cli: Cli, tmp_path: Path, sshd: PlainSshd):
    said, _ = steady(cli("bench", host_run, "--on", "ssh://board", *CALIBRATE))
    assert "files verified on the board" in said
    (path,) = (tmp_path / "ws/calibration").glob("host-*.json")
    assert len(read(path).recorded[0].rows) == 24
    assert not {"user", "home", "hostname"} & read(path).machine.keys()
    assert sshd.left() == []


@pytest.mark.slow
def test_over_adb_where_the_device_has_python(tmp_path: Path, cli: Cli, device: Device):
    subprocess.run(["adb", "connect", device.serial], check=True, capture_output=True)
    run = make_run(tmp_path / "ws/runs/r")
    (run / "target.resolved.yaml").write_text(BOARD.replace("^Toy Board", "^Toy Phone"))
    said, _ = steady(cli("bench", run, "--on", f"adb:{device.serial}", *CALIBRATE))
    assert "taken for toy-board" in said
    (kept,) = read(tmp_path / "ws/calibration/toy-board.json").recorded
    assert kept.board.startswith("Toy Phone")
    assert len(kept.rows) == 24


def test_another_board_gets_nothing_and_is_not_recorded(tmp_path: Path, cli: Cli, short: Path):
    run = make_run(tmp_path / "ws/runs/r")
    (run / "target.resolved.yaml").write_text(BOARD)
    code, said, err = cli("bench", run, "--on", "local", *CALIBRATE)
    assert code == 6, said + err
    assert "not toy-board: its model is unknown" in err
    assert "hint: reach A board for tests: what another machine takes says nothing about it" in err
    assert "sending" not in said
    assert not (tmp_path / "ws/calibration").exists()
    assert list(short.glob("deblur-*")) == []


@pytest.mark.slow
def test_under_emulation_it_works_and_is_never_recorded(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    from compile import calibrate
    from targets.emulate.emulator import Emulator

    missing = Emulator("cortex-a76").missing()
    if missing:
        pytest.skip(f"needs emulation: {missing}")
    monkeypatch.setattr(calibrate, "SIDES", {"cpu": (32,)})
    run = make_run(tmp_path / "ws/runs/r")
    (run / "target.resolved.yaml").write_text(BOARD)
    code, said, err = cli("bench", run, "--on", "emulate:cortex-a76", "--calibrate", "--seconds", 0, "--count", 3)
    assert code == 4, said + err
    assert "round 3 of 3: 12 networks timed" in said
    assert "emulate:cortex-a76: emulates the CPU: its 12 microbenchmarks ran, and their times are recorded nowhere" in err
    assert not (tmp_path / "ws/calibration").exists()


def test_an_unsteady_timing_is_not_recorded(tmp_path: Path, host_run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """The board's own script, held to a bound that no timing meets."""
    from compile import calibrate

    real = calibrate._write_scripts

    def strict(folder: Path, entries: list[dict[str, object]]) -> None:
        real(folder, entries)
        script = folder / calibrate.SCRIPT
        text = script.read_text()
        assert text.count("MOST_SPREAD = 0.15") == 1
        script.write_text(text.replace("MOST_SPREAD = 0.15", "MOST_SPREAD = -1"))

    monkeypatch.setattr(calibrate, "_write_scripts", strict)
    code, _, err = cli("bench", host_run, "--on", "local", *CALIBRATE)
    assert (code, "the timing was unstable (rounds differ by" in err) == (4, True)
    assert "nothing is recorded" in err
    assert not (tmp_path / "ws/calibration").exists()


def test_one_that_is_stopped_records_nothing_and_keeps_its_log(
    tmp_path: Path, host_run: Path, cli: Cli, short: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    code, said, err = cli("bench", host_run, "--on", "local", "--calibrate", "--seconds", 600, "--limit", 3)
    assert (code, "calibrate.py took longer than 3 s on the board and was stopped" in err) == (5, True), err
    assert "kept calibration.json.log" in said
    assert not (tmp_path / "ws/calibration").exists()
    assert list(short.glob("deblur-*")) == []


@pytest.mark.slow
def test_engines_are_built_there_and_timed_by_trtexec(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """SYNTHETIC trtexec and CUDA driver: no GPU is here. Everything around them is real."""
    from tests.compile.test_bundle_engines import TRTEXEC

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    source = Path(__file__).parent.parent / "compile/synthetic_cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    trtexec = tmp_path / "trtexec"
    trtexec.write_text(TRTEXEC.format(python=sys.executable, error="0"))
    trtexec.chmod(0o755)
    monkeypatch.setenv("TRTEXEC", str(trtexec))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    board = BOARD.replace('{model: "^Toy Board"}', f"{{machine: {os.uname().machine}}}").replace(
        "rates:\n", f"{GPU.strip()}\nrates:\n{GPU_RATES} memory_efficiency: 0.6, launch_us: 5}}\n"
    )
    backends = '[{use: tensorrt, runs_on: gpu, precisions: [int8], version: "8.5.2"}]'
    board = board.replace("[{use: onnxruntime, runs_on: cpu, precisions: [fp32]}]", backends)
    bundle = small_bundle(tmp_path / "b", backend="tensorrt", precision="int8", runs_on="gpu", float_precision="fp16")
    run = make_run(tmp_path / "ws/runs/r", bundle=bundle)
    (run / "target.resolved.yaml").write_text(board)
    said, _ = steady(cli("bench", run, "--on", "local", *CALIBRATE))
    assert "12 engines are built on the board first" in said
    (kept,) = read(tmp_path / "ws/calibration/toy-board.json").recorded
    assert (kept.runs_on, kept.calibration.backend, kept.calibration.precision, kept.calibration.threads) == ("gpu", "tensorrt", "int8", 0)
    assert {round(r["ms"], 2) for r in kept.rows} == {2.0}  # what the synthetic trtexec says of every engine


def test_ways_without_a_shell_and_results_to_ingest_are_refused(host_run: Path, cli: Cli):
    code, _, err = cli("bench", host_run, "--on", "rpc://127.0.0.1:9190/xavier", "--calibrate")
    assert (code, "runs no scripts, and a calibration is one" in err) == (2, True)
    code, _, err = cli("bench", host_run, "--on", "local", "--calibrate", "--ingest", "latest")
    assert (code, "--ingest latest: takes a benchmark's result" in err) == (2, True)


def test_a_rate_that_the_target_does_not_state_is_said_before_anything_is_built(tmp_path: Path, cli: Cli):
    run = make_run(tmp_path / "ws/runs/r")
    (run / "target.resolved.yaml").write_text(BOARD.replace("fp32: 0.05", "int8: 0.2"))
    code, said, err = cli("bench", run, "--on", "local", *CALIBRATE)
    assert (code, "the target states no rate for fp32 (it has int8)" in err, said) == (5, True, "")


@pytest.mark.parametrize(
    ("then", "words"),
    [("2026-03-02T10:00:00Z", "0 minutes old"), ("2026-03-02T08:59:59Z", "1 hour old"), ("2026-02-20T10:00:00Z", "10 days old")],
)
def test_ages(then: str, words: str):
    assert age(then, datetime(2026, 3, 2, 10, 0, 30, tzinfo=UTC)) == words
    assert age("") == age("yesterday") == "of unknown age"


def test_the_script_keeps_to_the_oldest_python():
    import targets

    script = Path(targets.__file__).parent / "calibrate_on_board.py"
    vermin = Path(sys.executable).parent / "vermin"
    done = subprocess.run([vermin, "-t=3.6-", "--violations", "--no-tips", "--eval-annotations", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
