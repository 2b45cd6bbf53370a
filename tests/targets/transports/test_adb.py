"""adb: the real client and its server against a device daemon in this process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import StageFailed, ToolchainMissing, UsageError
from targets.transports import around, open_transport
from targets.transports.common.base import Identity, Job
from tests.boards.bundle_example import small_bundle
from tests.targets.transports.adbd import Device
from tests.targets.transports.conftest import QUICK, Bench, make_job

pytestmark = pytest.mark.slow

HOSTILE = ["a b", "it's $(touch pwned)", '"; touch pwned; "', "a*b", "ü 漢", "a,b"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not shutil.which("adb"):
        pytest.skip("needs adb: apt-get install adb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    home = tmp_path_factory.mktemp("adb-home")
    variables = {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(home), "ADB_MDNS_AUTO_CONNECT": "0", "ADB_MDNS": "0"}
    environment = {**os.environ, **variables}
    subprocess.run(["adb", "start-server"], check=True, capture_output=True, env=environment)
    yield variables
    subprocess.run(["adb", "kill-server"], check=True, capture_output=True, env=environment)


@pytest.fixture
def device(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    found = Device(tmp_path)
    yield found
    found.close()
    subprocess.run(["adb", "disconnect", found.serial], check=False, capture_output=True)  # not every test connects


def test_a_bundle_goes_there_and_its_result_comes_back(device: Device, job: Job):
    seen: list[Identity] = []
    bench = Bench(f"adb:{device.serial}")
    result = json.loads(bench(replace(job, check=seen.append)).files["result.json"])
    assert result["bundle_sha256"] == job.sha256
    assert seen[0]["model"] == seen[0]["ro.product.model"] == "Toy Phone"
    assert seen[0]["abi"] == "arm64-v8a"
    assert "persist.x" not in seen[0]
    assert any(line.startswith("  PASS quick") for line in bench.told)
    assert list(device.tmp.iterdir()) == []


def test_a_connected_device_is_found_and_says_what_it_is(device: Device, monkeypatch: pytest.MonkeyPatch):
    assert f"adb:{device.serial}" not in around()
    subprocess.run(["adb", "connect", device.serial], check=True, capture_output=True)
    assert f"adb:{device.serial}" in around()
    assert open_transport(f"adb:{device.serial}", print).look()["model"] == "Toy Phone"
    assert list(device.tmp.iterdir()) == []
    with monkeypatch.context() as changed:  # the device is disconnected from its own server
        changed.setenv("ANDROID_ADB_SERVER_PORT", "1")
        assert around() == ["local"], "where no server runs none is started"


def test_hostile_names_arrive_as_they_are(device: Device, tmp_path: Path):
    made = small_bundle(tmp_path / "bundle", extra={"quick.py": QUICK, **{f"{n}/{n}": n.encode() for n in HOSTILE}})
    job = make_job(made, keep=True)
    Bench(f"adb:{device.serial}")(job)
    there = next(device.tmp.glob("deblur-bench-*"))
    assert all((there / n / n).read_bytes() == n.encode() for n in HOSTILE)
    assert list(tmp_path.rglob("pwned")) == []


def test_a_pulled_cable_is_taken_up_where_it_was(device: Device, tmp_path: Path):
    made = small_bundle(tmp_path / "bundle", extra={"quick.py": QUICK, "large.bin": os.urandom(4 << 20)})
    device.cut_after = 1 << 20
    bench = Bench(f"adb:{device.serial}")
    bench(make_job(made))
    assert device.cut_after is None
    assert "connection lost" in bench.told.text
    sent = [line for line in bench.told if line.startswith("sending ")]
    assert len(sent) == 2
    assert sent[1].startswith("sending 2 of ")  # the large file and the manifest behind it
    assert list(device.tmp.iterdir()) == []


def test_a_benchmark_that_fails_leaves_a_clean_device(device: Device, job: Job):
    bench = Bench(f"adb:{device.serial}")
    with pytest.raises(StageFailed, match=r"quick\.py failed on the board \(status 1\): ValueError"):
        bench(replace(job, steps=(("python", "quick.py", "x"),)))
    assert b"Traceback" in bench.salvaged["log"]
    assert list(device.tmp.iterdir()) == []


def test_a_device_without_python(device: Device, job: Job, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "environment", lambda: {"TMPDIR": str(device.tmp), "PATH": str(device.bin)})
    for tool in ("sh", "uname", "id", "tr", "cat", "head", "sed", "timeout", "sha256sum", "tail", "wc", "df", "date"):
        (device.bin / tool).symlink_to(str(shutil.which(tool)))
    with pytest.raises(ToolchainMissing, match="the board has no python3"):
        Bench(f"adb:{device.serial}")(job)


def test_a_device_that_is_not_there(device: Device, job: Job):
    with pytest.raises(ToolchainMissing, match=r"adb:nowhere: cannot be reached \(.*'nowhere' not found"):
        Bench("adb:nowhere")(job)


def test_no_device_at_all(device: Device, job: Job):
    with pytest.raises(ToolchainMissing, match=r"adb: cannot be reached \(.*no devices"):
        Bench("adb")(job)


@pytest.mark.parametrize("serial", ["-s", "a b", "$(id)", "a\n", "x;y"])
def test_what_is_no_serial_is_refused(serial: str):
    with pytest.raises(UsageError, match="is not a serial number"):
        open_transport(f"adb:{serial}", print)
