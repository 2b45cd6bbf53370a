"""The native runner's --verify and --bench, held against the bundle's own Python scripts on the same bundle and the same sensors."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.targets.device_path  # noqa: F401
from compile.bundle import write_manifest
from eval.bundle import Bundle
from pipeline.ingest.result import read_result
from pipeline.store import hash_file
from pipeline.target import Frame, load_target
from tests.compile.conftest import compile_stage

from board import identity, protocol, sensors  # isort: skip

Runner = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--seconds", "0.05", "--count", "12", "--frames", "3", "--warmup", "0", "--threads", "1")
ZONE, POLICY = "sys/class/thermal/thermal_zone0", "sys/devices/system/cpu/cpufreq/policy0"
RAILS = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
BOARD = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd asimdhp\nCPU part\t: 0x004\n",
    "proc/device-tree/model": "NVIDIA Jetson AGX Xavier\0",
    "proc/device-tree/compatible": "nvidia,p2972-0000\0nvidia,tegra194\0",
    "etc/nv_tegra_release": "# R35 (release), REVISION: 2.1, GCID: 1, BOARD: t186ref",
    f"{ZONE}/type": "CPU-therm",
    f"{ZONE}/temp": "61234",
    "sys/class/thermal/thermal_zone1/type": "off",
    "sys/class/thermal/thermal_zone1/temp": "-256000",
    f"{POLICY}/scaling_governor": "schedutil",
    f"{POLICY}/related_cpus": "0 1",
    f"{POLICY}/scaling_cur_freq": "1190400",
    f"{POLICY}/scaling_max_freq": "2265600",
    "sys/class/devfreq/17000000.gv11b/governor": "nvhost_podgov",
    "sys/class/devfreq/17000000.gv11b/cur_freq": "1377000000",
    "sys/devices/system/cpu/online": "0-2,5",
    f"{RAILS}/in1_label": "GPU",
    f"{RAILS}/in1_input": "5000",
    f"{RAILS}/curr1_input": "200",
    f"{RAILS}/in2_label": "VDD_IN",
    f"{RAILS}/in2_input": "19000",
    f"{RAILS}/curr2_input": "500",
}
"""Synthetic: files in the form that a Xavier shows."""
TOOLS = {
    "getprop": '[ "$1" = ro.product.model ] && echo "Toy Phone"\nexit 0',
    "nvpmodel": "echo 'NV Power Mode: MODE_15W'\necho 2",
    "vcgencmd": "echo throttled=0x50001",
    "dumpsys": "printf 'Thermal Status: 2\\nCached temperatures:\\n\\tTemperature{mValue=30.1, mType=0, mName=CPU, mStatus=0}\\n'\n"
    "printf 'Current temperatures from HAL:\\n\\tTemperature{mValue=41.5, mType=3, mName=skin, mStatus=2}\\nCurrent cooling devices\\n'",
}


@pytest.fixture(scope="module")
def made(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    host = load_target("host")
    only = tuple(b.model_copy(update={"precisions": ("int8",)}) for b in host.backends if b.use == "tvm")
    target = host.model_copy(update={"backends": only, "frame": Frame(width=200, height=120)})
    return compile_stage(model_folder, target, tmp_path_factory.mktemp("native") / "work").outputs["bundle"].path


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


@pytest.fixture
def runner(copy: Path) -> Runner:
    program = copy / Bundle.open(copy).artifact("tvm-int8").runner

    def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [program, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd="/", env={**os.environ, **variables})

    return run


@pytest.fixture
def board(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder that stands for "/", and the environment with a board's own tools."""
    for name, text in BOARD.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text + "\n")
    (tmp_path / "bin").mkdir()
    for name, text in TOOLS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path / "root", {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def edited(copy: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((copy / "bundle.json").read_text())
    change(facts)
    (copy / "bundle.json").write_text(json.dumps(facts))
    write_manifest(copy)


def test_it_says_what_the_script_says(copy: Path, runner: Runner):
    script = subprocess.run([sys.executable, copy / "bench.py", "--verify"], capture_output=True, text=True)
    done = runner("--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == script.stdout
    assert done.stdout.startswith("PASS tvm-int8: ")


def test_its_result_is_the_script_s(copy: Path, runner: Runner):
    script = subprocess.run([sys.executable, copy / "bench.py", *QUICK], capture_output=True, text=True)
    assert script.returncode in (0, 3), script.stderr
    theirs = json.loads((copy / "result.json").read_text())
    done = runner("--bench", *QUICK)
    ours = json.loads((copy / "result.json").read_text())
    assert done.returncode == (0 if ours["stable"] else 3), done.stderr
    for name in (None, "kernel", "frame", "protocol", "samples", "golden"):
        have, want = (set(tree[name] if name else tree) for tree in (ours, theirs))
        assert have == want, name
    assert set(theirs["device"]) - set(ours["device"]) <= {"python", "numpy", "glibc"}
    for name in ("schema", "bundle_sha256", "artifact_sha256", "artifact", "precision", "target", "verified"):
        assert ours[name] == theirs[name], name
    assert ours["golden"] == pytest.approx(theirs["golden"])
    assert {**ours["protocol"], "decoder": theirs["protocol"]["decoder"]} == theirs["protocol"]
    assert ours["bundle_sha256"] == hash_file(copy / "MANIFEST.sha256")
    assert ours["samples"]["peak_rss_mb"] > 1
    assert read_result(copy / "result.json").kernel is not None
    assert [p.name for p in copy.glob("*.tmp")] == []


def test_its_statistics_and_reasons_are_the_protocol_s(copy: Path, runner: Runner):
    runner("--bench", *QUICK)
    result = json.loads((copy / "result.json").read_text())
    for name in ("kernel", "frame"):
        want = protocol.statistics(result[name]["times_ms"])
        for key in ("p50_ms", "p90_ms", "p99_ms", "mean_ms", "cv", "drift"):
            assert result[name][key] == pytest.approx(want[key], rel=1e-3, abs=1e-3), key
    reasons = protocol.why_unstable(result["kernel"], "kernel") + protocol.why_unstable(result["frame"], "frame")
    assert result["unstable_reason"] == "; ".join([*reasons, *(f"throttled: {r}" for r in result["samples"]["throttled"])])


def test_it_reads_a_board_as_the_scripts_do(
    copy: Path, runner: Runner, board: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
):
    root, variables = board
    (root / f"{ZONE}/trip_point_0_type").write_text("passive\n")
    (root / f"{ZONE}/trip_point_0_temp").write_text("61000\n")
    monkeypatch.setenv("PATH", variables["PATH"])
    done = runner("--bench", *QUICK, "--seconds", "0.6", "--root", root)
    assert done.returncode == 3, done.stderr
    result = json.loads((copy / "result.json").read_text())
    state, samples = sensors.State(root), result["samples"]
    assert samples["temperatures_before"] == state.temperatures
    assert samples["clocks_before"] == result["device"]["clocks"] == state.clocks
    assert samples["throttled"] == sensors.throttling(state, state)
    assert "CPU-therm at 61 C, it slows down from 61 C" in result["unstable_reason"]
    assert "Android's thermal status is moderate (skin)" in result["unstable_reason"]
    assert "Raspberry Pi: under-voltage" in result["unstable_reason"]
    assert (samples["rails_mw"], result["device"]["power_mode"]) == (
        {"GPU": 1000, "VDD_IN": 9500, "total": 9500},
        {"name": "MODE_15W", "id": 2},
    )
    assert samples["energy_mj_per_frame"] == pytest.approx(9.5 * result["frame"]["mean_ms"])
    facts = identity.device_facts(root)
    for key in ("hostname", "machine", "system", "model", "compatible", "l4t", "cpu", "features"):
        assert result["device"][key] == facts[key], key


def test_a_clock_that_falls_is_throttling(copy: Path, runner: Runner, board: tuple[Path, dict[str, str]]):
    """Each reading of the board ends with dumpsys; here it lowers the highest clock, so the second reading sees it fall."""
    root, variables = board
    (root.parent / "bin/dumpsys").write_text(f"#!/bin/sh\necho 1900000 > {root / POLICY}/scaling_max_freq\n")
    (root.parent / "bin/vcgencmd").unlink()
    done = runner("--bench", *QUICK, "--root", root, **variables)
    result = json.loads((copy / "result.json").read_text())
    assert result["samples"]["throttled"] == ["policy0: the highest clock fell from 2265600 to 1900000"]
    assert (done.returncode, result["stable"]) == (3, False)


def test_another_board_is_refused_unless_forced(copy: Path, runner: Runner, board: tuple[Path, dict[str, str]]):
    root, variables = board
    rules = {
        "model": "Orin Nano",
        "cpu_flags": ["asimd", "i8mm"],
        "android": {"ro.product.model": "^Toy"},
        "l4t": "R35\\.[2-6]",
        "cuda": "8",
    }
    edited(copy, lambda facts: (facts.update(recognise=rules), [a.update(role="target") for a in facts["artifacts"]]))
    done = runner("--verify", "--root", root, **variables)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("FAIL this bundle: this bundle is for ")
    assert "this is another board: " in done.stdout
    assert "its model is 'Toy Phone', not like 'Orin Nano'" in done.stdout
    assert "its CPU lacks i8mm" in done.stdout
    assert "its l4t" not in done.stdout and "ro.product.model" not in done.stdout
    assert runner("--bench", *QUICK, "--root", root, **variables).returncode == 2
    assert runner("--verify", "--force-board", "--root", root, **variables).returncode == 0
    edited(copy, lambda facts: facts["recognise"].update(model="^Toy", cpu_flags=["asimd"]))
    assert runner("--verify", "--root", root, **variables).returncode == 0


def test_a_damaged_or_missing_file_fails(copy: Path, runner: Runner):
    golden = copy / Bundle.open(copy).artifact("tvm-int8").golden.expected
    content = golden.read_bytes()
    golden.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = runner("--verify")
    want = f"FAIL this bundle: {golden.relative_to(copy)} differs from MANIFEST.sha256: copy the bundle again\n"
    assert (done.returncode, done.stdout) == (1, want)
    golden.unlink()
    assert "is missing: copy the bundle again" in runner("--verify").stdout
    assert runner("--bench").returncode == 2


def test_another_output_fails(copy: Path, runner: Runner):
    golden = copy / Bundle.open(copy).artifact("tvm-int8").golden.expected
    np.save(golden, np.load(golden) + np.float32(0.1))
    write_manifest(copy)
    for words in (("--verify",), ("--bench", *QUICK)):
        done = runner(*words)
        assert (done.returncode, done.stdout[:15]) == (1, "FAIL tvm-int8: ")
    assert not (copy / "result.json").exists()


def test_what_it_cannot_run_is_said(copy: Path, runner: Runner):
    edited(copy, lambda facts: facts["artifacts"].insert(0, {**facts["artifacts"][0], "name": "x", "backend": "litert", "runner": ""}))
    assert (
        "FAIL x: x cannot be run by this program: it runs in litert, from Python: python3 bench.py"
        in runner("--verify", "--artifact", "x").stdout
    )
    edited(copy, lambda facts: facts.update(chosen="x"))
    done = runner("--verify")
    assert done.stderr == "skipped x: it runs in litert, from Python: python3 bench.py; taking tvm-int8\n"
    assert done.stdout.startswith("PASS tvm-int8")
    cases = {
        ("--verify", "--artifact", "nothing"): (1, "no artifact 'nothing' in this bundle"),
        ("--bench", "--set-clocks"): (2, "--set-clocks: this program sets nothing; python3 bench.py does"),
        ("--bench", "--count", "0"): (2, "--count is 0: give a number from 1 on"),
        ("--bench", "--seconds"): (2, "--seconds is missing: give a number from 0 on"),
        ("--bench", "--threads", "300"): (2, "--threads is 300: give 1 to 256, or 0 for all cores"),
        ("--bench", "--nonsense"): (2, "unknown option '--nonsense'"),
        ("--bench", *QUICK, "--out", "/proc/nowhere/r.json"): (2, "/proc/nowhere/r.json cannot be written"),
    }
    for words, (status, text) in cases.items():
        done = runner(*words)
        assert (done.returncode, text in done.stdout + done.stderr) == (status, True), (words, done)


def test_one_at_a_time(runner: Runner, tmp_path: Path):
    with (tmp_path / "deblur-bench.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = runner("--bench", *QUICK, "--wait", "0.2", TMPDIR=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("another benchmark runs on this board: waiting\nerror: another benchmark has held this board for 0.2 s")
