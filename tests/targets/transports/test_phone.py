"""A phone without Python: the exact Android bundle over the real adb client; its runner for aarch64 is emulated, so times prove nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from compile.bundle import write_manifest
from eval.bundle import Bundle
from pipeline.target import Calibration, Frame, KindCost, load_target
from tests.boards.run_example import NAME, make_run
from tests.compile.conftest import compile_stage
from tests.compile.networks import SMALL, write_model_folder
from tests.pipeline.conftest import cli
from tests.targets.transports.adbd import Device
from tests.targets.transports.test_adb import device, server

pytestmark = pytest.mark.slow
__all__ = ["cli", "device", "server"]

TOOLS = ("sh", "id", "tr", "cat", "head", "tail", "sha256sum", "wc", "df", "date", "mkdir", "chmod", "rm", "mv", "setsid", "sleep", "kill")
PROCESSOR = """#!/bin/sh
limit=$1; shift
case $1 in ./runner/aarch64/*) exec {timeout} "$limit" {qemu} -cpu cortex-a76 "$@" --root {root} ;; esac
exec {timeout} "$limit" "$@"
"""
"""The phone's timeout: what it starts for aarch64 runs under qemu, and reads the phone's own /proc and /sys."""
SED = """#!/bin/sh
n=$#
while [ $n -gt 0 ]; do a=$1; shift; [ "$a" = /proc/cpuinfo ] && a={root}/proc/cpuinfo; set -- "$@" "$a"; n=$((n - 1)); done
exec {sed} "$@"
"""
UNAME = '#!/bin/sh\n[ "$1" = -m ] && echo aarch64 || exec {uname} "$@"\n'
DUMPSYS = """#!/bin/sh
[ "$1" = thermalservice ] && printf 'Thermal Status: 0\\nCurrent temperatures from HAL:\\n'
printf '\\tTemperature{{mValue=31.5, mType=3, mName=skin, mStatus=0}}\\nCurrent cooling devices from HAL:\\n'
"""
FILES = {
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\nCPU part\t: 0xd0b\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-0-0",
    "sys/class/thermal/thermal_zone0/temp": "41200",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
    "sys/devices/system/cpu/cpufreq/policy0/related_cpus": "0 1 2 3",
    **{
        f"sys/devices/system/cpu/cpufreq/policy0/scaling_{k}_freq": v
        for k, v in (("cur", "1804800"), ("min", "300000"), ("max", "1804800"))
    },
}
"""Synthetic: what a phone of that form shows."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Android bundle of a small student: LiteRT's int8, taken for the fastest, and beside it TVM's, which needs no Python."""
    phone = load_target("android-arm64")
    asked = tuple(b.model_copy(update={"precisions": ("int8",)}) for b in phone.backends if b.use in ("litert", "tvm"))
    folder = tmp_path_factory.mktemp("phone")
    model = write_model_folder(folder / "model", SMALL)
    free = {"precision": "int8", "launch_us": 0, "us_per_mmac": 0, "us_per_mb": 0, "networks": 1}
    costs = tuple(KindCost(kind=kind, **free) for kind in ("dense", "narrow", "pointwise", "depthwise"))
    fast = Calibration(backend="litert", precision="int8", threads=phone.cpu.cores, costs=costs, networks=1, error=0)
    rates = {"cpu": phone.rates["cpu"].model_copy(update={"calibrations": (fast,)})}
    target = phone.model_copy(update={"backends": asked, "frame": Frame(width=200, height=120), "rates": rates})
    return compile_stage(model, target, folder / "work").outputs["bundle"].path


@pytest.fixture
def phone(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device whose shell finds its own tools and no Python, and whose programs are aarch64."""
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    root = tmp_path / "phone"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    for tool in TOOLS:
        (device.bin / tool).symlink_to(str(shutil.which(tool)))
    words = {"qemu": qemu, "root": root, **{tool: shutil.which(tool) for tool in ("timeout", "sed", "uname")}}
    for name, text in (("timeout", PROCESSOR), ("sed", SED), ("uname", UNAME), ("dumpsys", DUMPSYS)):
        (device.bin / name).write_text(text.format(**words))
        (device.bin / name).chmod(0o755)
    environment = {"TMPDIR": str(device.tmp), "PATH": str(device.bin), "HOME": str(device.tmp)}
    monkeypatch.setattr(device, "environment", lambda: environment)
    return device


def finished(bundle: Path, folder: Path, chosen: str) -> Path:
    """A finished run whose bundle has that artifact chosen, and whose report names both."""
    run = make_run(folder, target="android-arm64", bundle=bundle)
    facts = json.loads((run / "bundle/bundle.json").read_text())
    (run / "bundle/bundle.json").write_text(json.dumps({**facts, "chosen": chosen}))
    write_manifest(run / "bundle")
    other = next(a["name"] for a in facts["artifacts"] if a["name"] != chosen)
    report = (run / "report.json").read_text().replace(NAME, chosen).replace("other-fp32", other)
    (run / "report.json").write_text(report)
    return run


def benched(run: Path, phone: Device, cli: Callable[..., tuple[int, str, str]], out: Path, *more: str) -> tuple[int, str, str]:
    options = ("--seconds", "0.1", "--count", "8", "--limit", "300", "--out", out, "--ingest", run)
    return cli("bench", run, "--on", f"adb:{phone.serial}", *options, *more)


def test_a_phone_s_result_goes_into_the_run(bundle: Path, phone: Device, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    run, out = finished(bundle, tmp_path / "run", "tvm-int8"), tmp_path / "result.json"
    code, said, err = benched(run, phone, cli, out)
    assert out.exists(), said + err
    result = json.loads(out.read_text())
    assert "has no python3: tvm-int8 runs there in the bundle's own runner" in said
    assert "taken for android-arm64" in said
    assert (result["artifact"], result["verified"], result["golden"]["psnr"] > 40) == ("tvm-int8", True, True)
    device = result["device"]
    assert (device["machine"], device["model"], device["abi"], device["board"]) == ("aarch64", "Toy Phone", "arm64-v8a", "recognised")
    assert device["features"] == ["asimd", "asimddp", "asimdhp", "fp"]
    assert "python" not in device
    samples = result["samples"]
    assert samples["temperatures_after"] == {"thermal_zone0 cpu-0-0": 41.2, "skin": 31.5}
    assert samples["clocks_before"]["policy0"] == {
        "governor": "schedutil",
        **{"cpus": "0 1 2 3", "cur": 1804800, "min": 300000, "max": 1804800},
    }
    assert (samples["throttled"], samples["peak_rss_mb"] > 1) == ([], True)
    assert list(phone.tmp.iterdir()) == []
    if not result["stable"]:  # another program runs here: then it is refused with the reason
        assert (code, "the timing was unstable" in err) == (4, True)
        return
    assert code in {0, 3}, err
    report = json.loads((run / "report.json").read_text())
    rows = [m for s in report["stages"] for m in s["measurements"] if m["evidence"] == "target"]
    assert report["version"] == 2
    assert any(m["name"].endswith("latency_p90") and m["value"] == pytest.approx(result["frame"]["p90_ms"], rel=1e-3) for m in rows)


def test_what_runs_there_takes_the_place_of_what_does_not(
    bundle: Path, phone: Device, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
):
    run, out = finished(bundle, tmp_path / "run", "litert-int8"), tmp_path / "result.json"
    code, said, err = benched(run, phone, cli, out)
    assert f"skipped litert-int8: litert runs from Python alone, and adb:{phone.serial} has no python3" in said
    assert "taking tvm-int8, which runs there in the bundle's own runner" in said
    assert json.loads(out.read_text())["artifact"] == "tvm-int8", err
    assert code in {0, 3, 4}, err


def test_what_was_asked_for_by_name_is_not_replaced(bundle: Path, phone: Device, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    run = finished(bundle, tmp_path / "run", "tvm-int8")
    code, _, err = benched(run, phone, cli, tmp_path / "result.json", "--artifact", "litert-int8")
    assert code == 6, err
    assert "the board has no python3, which litert needs to run litert-int8" in err
    assert "hint: measure what needs no Python: --artifact tvm-int8" in err
    assert list(phone.tmp.iterdir()) == []


def test_a_bundle_without_tvm_says_what_is_needed(bundle: Path, phone: Device, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    run = finished(bundle, tmp_path / "run", "litert-int8")
    facts = json.loads((run / "bundle/bundle.json").read_text())
    facts["artifacts"] = [a for a in facts["artifacts"] if a["backend"] == "litert"]
    (run / "bundle/bundle.json").write_text(json.dumps(facts))
    write_manifest(run / "bundle")
    Bundle.open(run / "bundle")
    code, _, err = benched(run, phone, cli, tmp_path / "result.json")
    assert (code, len(err.strip().splitlines())) == (6, 2), err
    assert "the board has no python3, which litert needs to run litert-int8" in err
    assert "hint: list tvm among the target's backends and compile again, or give Termux there Python" in err
