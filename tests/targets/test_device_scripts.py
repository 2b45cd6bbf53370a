from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.target import known_targets, load_target
from tests.targets.device_path import FOLDER, SCRIPTS

from board import basics, golden, identity, line, protocol  # isort: skip

ALLOWED = {"numpy", "board", "onnxruntime", "tvm", "openvino", "ai_edge_litert", "tflite_runtime", "cv2", "PIL"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_the_device_scripts_keep_to_python_3_6(script: Path):
    vermin = Path(sys.executable).parent / "vermin"
    done = subprocess.run([vermin, "-t=3.6-", "--violations", "--no-tips", "--eval-annotations", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_board_has_an_older_python():
    assert min(tuple(map(int, load_target(name).python.split("."))) for name in known_targets()) >= (3, 6)


def test_the_device_scripts_import_nothing_of_ours():
    nodes = [n for script in SCRIPTS for n in ast.walk(ast.parse(script.read_text()))]
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    roots = {n.partition(".")[0] for n in names}
    assert roots - set(sys.stdlib_module_names) == ALLOWED


@pytest.mark.parametrize("script", ["run.py", "bench.py"])
def test_help_and_wrong_commands(script: str):
    done = subprocess.run([sys.executable, FOLDER / script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--verify" in done.stdout and "--force-board" in done.stdout
    done = subprocess.run([sys.executable, FOLDER / script, "--nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_what_must_be_given_together():
    done = subprocess.run([sys.executable, FOLDER / "run.py", "in.png"], capture_output=True, text=True)
    assert (done.returncode, "give INPUT and OUTPUT, or --verify" in done.stderr) == (2, True)
    done = subprocess.run([sys.executable, FOLDER / "bench.py", "--power-mode", "0"], capture_output=True, text=True)
    assert (done.returncode, "--power-mode needs --set-clocks" in done.stderr) == (2, True)


def test_statistics_by_hand():
    found = protocol.statistics([3.0, 1.0, 2.0, 4.0, 100.0])
    assert (found["p50_ms"], found["count"], found["mean_ms"], found["drift"]) == (3.0, 5, 22.0, 0.0)
    assert found["p90_ms"] == pytest.approx(61.6)
    assert found["cv"] == pytest.approx(1.4826 / 3)  # deviations 0, 2, 1, 1, 97: their median is 1
    assert found["times_ms"] == [3.0, 1.0, 2.0, 4.0, 100.0]


def test_repeating_stops_at_least_time_and_least_count():
    calls: list[float] = []

    def once() -> float:
        calls.append(0.0)
        return 1.0

    assert protocol.repeat(once, 0.0, 7) == [1.0] * 7
    assert len(calls) == 7
    protocol.warm_up(once, 0.0)
    assert len(calls) == 10
    assert len(protocol.repeat(once, 0.02, 1)) > 100  # by the clock, not by what the calls say


@pytest.mark.parametrize(
    ("times", "text"),
    [
        ([10.0] * 12, ""),
        ([10.0, 20.0] * 6, "kernel times spread by"),
        ([10.0] * 4 + [11.0] * 4 + [12.0] * 4, "kernel times rose by 20% during the run (at most 10%): cool the board"),
        ([12.0] * 4 + [11.0] * 4 + [10.0] * 4, "kernel times fell by 17% during the run"),
        ([math.nan] * 3, "kernel times spread by nan"),
    ],
)
def test_an_unstable_run_says_why(times: list[float], text: str):
    found = "; ".join(protocol.why_unstable(protocol.statistics(times), "kernel"))
    assert found.startswith(text) and bool(found) == bool(text)


def test_psnr_by_hand():
    want = np.zeros((1, 3, 2, 2), np.float32)
    assert golden.psnr(want, want) == math.inf
    assert golden.psnr(want + np.float32(0.1), want) == pytest.approx(20, abs=1e-4)
    assert math.isnan(golden.psnr(want * np.nan, want))
    rounded = np.full((1, 3, 2, 2), 51, np.uint8)  # 0.2
    assert golden.psnr(np.full(rounded.shape, 0.2004, np.float32), rounded) == math.inf
    assert golden.psnr(np.full(rounded.shape, 0.3, np.float32), rounded) == pytest.approx(
        -20 * math.log10(25 / 255), abs=1e-3
    )  # rint(76.5)
    assert math.isnan(golden.psnr(np.full(rounded.shape, np.nan, np.float32), rounded))


FACTS = {"model": "NVIDIA Jetson AGX Xavier", "l4t": "R35.2.1", "features": ["asimd", "asimddp"]}
BUNDLE = {"target": "jetson-xavier", "title": "NVIDIA Jetson AGX Xavier", "recognise": {"model": "AGX Xavier", "l4t": "R35"}}


def test_the_board_is_recognised():
    assert identity.mismatches(BUNDLE["recognise"], FACTS) == []
    assert identity.check_board(BUNDLE, {"role": "target"}, FACTS, force=False) == "recognised"
    assert identity.mismatches({"cpu_flags": ["asimddp"], "machine": "", "android": {}, "cuda": "7"}, FACTS) == []
    assert identity.mismatches({"cuda": "^7"}, {**FACTS, "cuda": "8.7"}) == ["its cuda is '8.7', not like '^7'"]
    assert identity.mismatches({"cpu_flags": ["asimddp", "i8mm"]}, FACTS) == ["its CPU lacks i8mm"]
    assert identity.mismatches({"android": {"ro.product.cpu.abi": "^arm64"}}, {"abi": "arm64-v8a"}) == []
    assert identity.mismatches({"android": {"ro.x": "1"}}, {}) == ["its ro.x is 'unknown', not like '1'"]
    assert identity.check_board({**BUNDLE, "recognise": {}}, {"role": "target"}, {}, force=False) == "unknown"


def test_another_board_is_refused_in_words():
    other = {**FACTS, "model": "Raspberry Pi 5 Model B Rev 1.0", "l4t": ""}
    with pytest.raises(basics.DeviceError) as caught:
        identity.check_board(BUNDLE, {"role": "target"}, other, force=False)
    assert str(caught.value) == (
        "this bundle is for NVIDIA Jetson AGX Xavier (jetson-xavier), and this is another board: its l4t is 'unknown', not like 'R35'; "
        "its model is 'Raspberry Pi 5 Model B Rev 1.0', not like 'AGX Xavier'; make a bundle for this one, or give --force-board"
    )
    assert identity.check_board(BUNDLE, {"role": "target"}, other, force=True) == "forced"
    assert identity.check_board(BUNDLE, {"role": "host"}, other, force=False) == "unknown"


def test_l4t_and_jetpack():
    text = "# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref, EABI: aarch64, DATE: Tue Jan 24 23:38:33 UTC 2023"
    assert (identity.parse_l4t(text), identity.jetpack_of("R35.2.1")) == ("R35.2.1", "5.1")
    assert (identity.parse_l4t("Ubuntu"), identity.jetpack_of("")) == ("", "")


def test_the_facts_of_a_synthetic_board(tmp_path: Path):
    for name, text in {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n\nprocessor\t: 1\nFeatures\t: fp\n",
        "etc/nv_tegra_release": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    facts = identity.device_facts(tmp_path)
    assert facts["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["compatible"] == "raspberrypi,5-model-b brcm,bcm2712"
    assert (facts["cpu"], facts["features"]) == ("0xd0b", ["asimd", "asimddp", "fp"])
    assert "l4t" not in facts and facts["hostname"]
    assert identity.parse_cpuinfo("model name : A CPU\nflags : fpu avx2 fma\n") == {"cpu": "A CPU", "features": ["avx2", "fma"]}


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "result.json"
    basics.write_json(path, {"first": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(basics.DeviceError, match=r"cannot be written \(No space left on device\): free some space"):
        basics.write_json(path, {"second": 2})
    assert path.read_text() == '{\n "first": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(basics.DeviceError, match="cannot be written"):
        basics.write_json(tmp_path / "nowhere" / "result.json", {})


HOLDER = "import sys, time; sys.path.insert(0, {folder!r}); from pathlib import Path; from board.line import Line\n"
HOLDER += "with Line(5, Path({path!r})): print('held', flush=True); time.sleep({seconds})"


def hold(path: Path, seconds: float) -> subprocess.Popen[str]:
    code = HOLDER.format(folder=str(FOLDER), path=str(path), seconds=seconds)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_two_benchmarks_wait_in_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = hold(tmp_path / "lock", 0.5)
    with line.Line(30, tmp_path / "lock"):
        assert first.wait(10) == 0
    assert capsys.readouterr().err == "another benchmark runs on this board: waiting\n"


def test_a_wait_ends_and_a_killed_benchmark_blocks_nobody(tmp_path: Path):
    first = hold(tmp_path / "lock", 60)
    with (
        pytest.raises(basics.DeviceError, match="another benchmark has held this board for 0 s: try later"),
        line.Line(0, tmp_path / "lock"),
    ):
        pass
    first.kill()
    first.wait()
    with line.Line(5, tmp_path / "lock"):
        pass
