"""local: this machine as the board, and the benchmarks that somebody starts on it by hand."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import machine
from pipeline.errors import ToolchainMissing
from pipeline.ingest.identity import unlike
from pipeline.target import load_target
from targets.transports import local, open_transport
from targets.transports.common.base import Job
from tests.boards.bundle_example import small_bundle
from tests.targets.transports.conftest import Bench, make_job, when


@pytest.fixture
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the temporary files of one test: the lines before this machine are in it."""
    (tmp_path / "t").mkdir()
    with monkeypatch.context() as changed:
        changed.setenv("TMPDIR", str(tmp_path / "t"))
        changed.setattr("tempfile.tempdir", None)  # it is kept once it is known
        yield tmp_path / "t"


def test_a_job_waits_for_a_benchmark_started_by_hand(tmp: Path, job: Job):
    bench, bundle = Bench("local"), small_bundle(tmp.parent / "hand", "host")
    command = [sys.executable, bundle / "bench.py", "--seconds", "0.1", "--warmup", "0"]
    hand = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert hand.stdout is not None and hand.stdout.readline().startswith("PASS")
    hand.send_signal(signal.SIGSTOP)
    going_on = when(lambda: "waiting in line" in bench.told.text, lambda: hand.send_signal(signal.SIGCONT))
    assert "result.json" in bench(job).files
    going_on.join()
    assert (bundle / "result.json").exists(), "the other benchmark was over first"
    hand.communicate()
    assert bench.told.count("waiting in line: a benchmark that was started by hand uses the board") == 1
    assert [p.name for p in tmp.glob("deblur*")] == ["deblur-bench.lock"]


def test_on_arm_this_machine_is_the_host(monkeypatch: pytest.MonkeyPatch):
    """There /proc/cpuinfo gives a part number by core and the board's name; both sides must take the same."""
    for module in (machine, local):
        monkeypatch.setattr(module, "cpu_model", lambda: "Raspberry Pi 5 Model B Rev 1.0")
    assert unlike(load_target("host"), open_transport("local", print).look()) == ""


def test_the_wait_ends_and_nothing_is_left(tmp: Path, bundle: Path):
    with (tmp / "deblur-bench.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ToolchainMissing, match=r"is still in use by a benchmark that was started there by hand, after 0\.1 s"):
            Bench("local")(make_job(bundle, wait_s=0.1))
        assert [p.name for p in tmp.glob("deblur*")] == ["deblur-bench.lock"]
    later = Bench("local")
    assert "result.json" in later(make_job(bundle)).files
    assert not any("taking it up" in line or "waiting" in line for line in later.told)
