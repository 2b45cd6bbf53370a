"""ssh: the system's client against a real sshd on loopback, and everything that can go wrong in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import StageFailed, ToolchainMissing
from targets.transports.common import remote
from targets.transports.common.base import Identity, Job
from tests.boards.bundle_example import small_bundle
from tests.targets.transports.conftest import QUICK, Bench, make_job, when
from tests.targets.transports.plain_sshd import PlainSshd

pytestmark = pytest.mark.slow

HOSTILE = ["a b", "it's $(touch pwned) `touch pwned`", '"; touch pwned; "', "-rf", "a*b?[c]", "back\\slash", "ü ñ 漢", "~/x", "%s %d"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("large") / "bundle", extra={"quick.py": QUICK, "zz-large.bin": os.urandom(64 << 20)})


def folder_on(sshd: PlainSshd, job: Job) -> Path:
    return sshd.home / f"deblur-bench-{os.getuid()}-{job.sha256[:16]}"


def test_a_bundle_goes_there_and_its_result_comes_back(sshd: PlainSshd, job: Job):
    seen: list[Identity] = []
    bench = Bench("ssh://board")
    steps = (("python", "bench.py", "--artifact", job.artifact, "--seconds", "0.1", "--out", "result.json"),)
    result = json.loads(bench(replace(job, check=seen.append, steps=steps)).files["result.json"])
    assert result["bundle_sha256"] == job.sha256
    assert result["kernel"]["count"] >= 50
    assert seen[0]["machine"] == os.uname().machine
    assert f"{len(job.files)} files verified on the board" in bench.told
    assert any(line.startswith("  PASS ") for line in bench.told), bench.told.text
    assert sshd.left() == []


def test_hostile_names_arrive_as_they_are(sshd: PlainSshd, tmp_path: Path):
    made = small_bundle(
        tmp_path / "bundle", extra={"quick.py": QUICK, **{f"{name}/{name}".lstrip("~/"): name.encode() for name in HOSTILE}}
    )
    Bench("ssh://board")(make_job(made, keep=True))
    there = folder_on(sshd, make_job(made))
    for name in HOSTILE:
        assert (there / f"{name}/{name}".lstrip("~/")).read_bytes() == name.encode()
    assert list(sshd.folder.rglob("pwned")) == []
    Bench("ssh://board")(make_job(made))
    assert sshd.left() == []


def test_a_folder_with_a_hostile_name(sshd: PlainSshd, job: Job):
    place = sshd.home / "it's $(touch pwned)"
    place.mkdir()
    Bench(f"ssh://board{place}")(job)
    assert list(place.iterdir()) == []
    place.rmdir()
    assert sshd.left() == []


def test_keep_leaves_the_bundle_and_the_next_time_sends_nothing(sshd: PlainSshd, job: Job):
    Bench("ssh://board")(replace(job, keep=True))
    there = folder_on(sshd, job)
    assert not (there / "result.json").exists()
    again = Bench("ssh://board")
    again(job)
    assert "sending" not in again.told.text
    assert sshd.left() == []


def test_a_transfer_that_is_cut_goes_on_where_it_was(sshd: PlainSshd, large: Path):
    job = make_job(large)
    partial = folder_on(sshd, job) / "zz-large.bin"
    cut = when(lambda: partial.exists() and 0 < partial.stat().st_size < 60 << 20, sshd.drop)
    bench = Bench("ssh://board")
    assert b"result.json written" in bench(job).files["log"]
    cut.join()
    assert "connection lost" in bench.told.text
    kept = [line for line in bench.told if "going on after" in line]
    assert len(kept) == 1
    assert float(kept[0].rpartition("after ")[2].removesuffix(" MB")) > 0
    assert sshd.left() == []


def test_a_board_that_goes_off_keeps_what_arrived_for_the_next_time(sshd: PlainSshd, large: Path):
    job = make_job(large)
    partial = folder_on(sshd, job) / "zz-large.bin"
    off = when(lambda: partial.exists() and 0 < partial.stat().st_size < 60 << 20, sshd.stop)
    bench = Bench("ssh://board")
    with pytest.raises(ToolchainMissing) as e:
        bench(job)
    off.join()
    assert "the connection was lost 4 times" in e.value.what
    assert "what arrived is kept" in e.value.hint
    assert "could not clean" in bench.told.text
    arrived = partial.stat().st_size
    sshd.start()
    lock = sshd.tmp / "deblur-bench.line"
    (lock / "beat").write_text("1\n")  # as if a minute had gone by
    again = Bench("ssh://board")
    again(job)
    assert f"going on after {arrived / 1e6:.1f} MB" in again.told.text
    assert "took over a stale lock of" in again.told.text
    assert sshd.left() == []


def test_a_benchmark_goes_on_without_the_connection(sshd: PlainSshd, job: Job):
    slow = replace(job, steps=(("python", "quick.py", "3"),))
    log = folder_on(sshd, job) / ".bench.log"
    cut = when(lambda: log.exists() and log.stat().st_size > 0, sshd.drop)
    bench = Bench("ssh://board")
    assert json.loads(bench(slow).files["result.json"])["verified"]
    cut.join()
    assert "connection lost" in bench.told.text
    assert bench.told.text.count("  PASS ") == 1
    assert sshd.left() == []


def test_a_result_whose_client_was_lost_is_fetched_by_the_next(sshd: PlainSshd, job: Job):
    slow = replace(job, steps=(("python", "quick.py", "2"),))
    there = folder_on(sshd, job)
    off = when(lambda: (there / ".bench.log").exists() and (there / ".bench.log").stat().st_size > 0, sshd.stop)
    with pytest.raises(ToolchainMissing):
        Bench("ssh://board")(slow)
    off.join()
    when((there / ".bench.rc").exists, lambda: None).join()
    sshd.start()
    stamp = (there / "result.json").stat().st_mtime_ns
    fetched_stamp = json.loads((there / "result.json").read_text())["started"]
    (sshd.tmp / "deblur-bench.line/beat").write_text("1\n")
    again = Bench("ssh://board")
    result = json.loads(again(slow).files["result.json"])
    assert stamp and result["started"] == fetched_stamp
    assert "taking it up" in again.told.text
    assert sshd.left() == []


def test_a_killed_benchmark_is_said_and_its_log_kept(sshd: PlainSshd, job: Job):
    slow = replace(job, steps=(("python", "quick.py", "30"),))
    there = folder_on(sshd, job)

    def kill() -> None:
        timeout = int((there / ".bench.pid").read_text())
        for child in Path(f"/proc/{timeout}/task/{timeout}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    killed = when(lambda: (there / ".bench.log").exists() and (there / ".bench.log").stat().st_size > 0, kill)
    bench = Bench("ssh://board")
    with pytest.raises(StageFailed) as e:
        bench(slow)
    killed.join()
    assert "quick.py was killed on the board (signal 9" in e.value.what
    assert bench.salvaged["log"].startswith(b"PASS ")
    assert sshd.left() == []


def test_a_benchmark_that_takes_too_long_is_stopped(sshd: PlainSshd, job: Job):
    with pytest.raises(StageFailed, match="took longer than 2 s on the board and was stopped"):
        Bench("ssh://board")(replace(job, steps=(("python", "quick.py", "60"),), limit_s=2))
    assert sshd.left() == []


def test_a_benchmark_that_fails_says_its_last_line(sshd: PlainSshd, job: Job):
    bench = Bench("ssh://board")
    with pytest.raises(StageFailed, match=r"bench\.py failed on the board \(status 2\): .*no artifact 'other'"):
        bench(replace(job, steps=(("python", "bench.py", "--artifact", "other"),)))
    assert b"no artifact" in bench.salvaged["log"]
    assert sshd.left() == []


def test_a_file_damaged_on_the_board_is_sent_again(sshd: PlainSshd, job: Job):
    Bench("ssh://board")(replace(job, keep=True))
    damaged = folder_on(sshd, job) / "bench.py"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"#")
    again = Bench("ssh://board")
    again(job)
    assert "sending 1 of" in again.told.text
    assert sshd.left() == []


def test_a_file_that_stays_damaged_is_refused(sshd: PlainSshd, job: Job):
    files = (replace(job.files[0], sha256="0" * 64), *job.files[1:])
    with pytest.raises(StageFailed, match="differs from its hash on the board, twice"):
        Bench("ssh://board")(replace(job, files=files))
    assert sshd.left() == []


def test_the_wrong_board_gets_nothing(sshd: PlainSshd, job: Job):
    def check(identity: Identity) -> None:
        raise ToolchainMissing("ssh://board", f"is {identity['hostname']}", "connect the other")

    with pytest.raises(ToolchainMissing):
        Bench("ssh://board")(replace(job, check=check))
    assert sshd.left() == []


def test_a_folder_that_is_not_ours_is_left_alone(sshd: PlainSshd, job: Job):
    there = folder_on(sshd, job)
    there.mkdir()
    (there / "thesis.tex").write_text("years of work")
    with pytest.raises(StageFailed, match="exists and is not ours"):
        Bench("ssh://board")(job)
    assert (there / "thesis.tex").read_text() == "years of work"
    (there / "thesis.tex").unlink()
    there.rmdir()
    assert sshd.left() == []


def test_a_link_in_place_of_our_folder_is_left_alone(sshd: PlainSshd, job: Job, tmp_path: Path):
    (tmp_path / ".deblur-bench").write_text(f"{job.sha256}\n")
    folder_on(sshd, job).symlink_to(tmp_path)
    with pytest.raises(StageFailed, match="exists and is not ours"):
        Bench("ssh://board")(job)
    assert (tmp_path / ".deblur-bench").exists()
    folder_on(sshd, job).unlink()


def test_two_clients_wait_in_line(sshd: PlainSshd, job: Job, tmp_path: Path):
    other = make_job(small_bundle(tmp_path / "other", extra={"quick.py": QUICK}))
    benches, spans = [Bench("ssh://board"), Bench("ssh://board")], []

    def go(bench: Bench, mine: Job) -> None:
        slow = replace(mine, steps=(("python", "quick.py", "1.5"),))
        spans.append(json.loads(bench(slow).files["result.json"])["started"])

    threads = [threading.Thread(target=go, args=pair) for pair in zip(benches, (job, other), strict=True)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(spans) == 2
    assert sum("waiting in line: " in b.told.text and f"pid {os.getpid()}" in b.told.text for b in benches) == 1
    assert sshd.left() == []


def test_a_board_in_use_is_said_when_the_wait_is_over(sshd: PlainSshd, job: Job):
    lock = sshd.tmp / "deblur-bench.line"
    lock.mkdir()
    (lock / "token").write_text("t")
    (lock / "owner").write_text("ann@desk pid 7 since noon")
    (lock / "beat").write_text(f"{time.time():.0f}\n")
    with pytest.raises(ToolchainMissing, match="is still in use by ann@desk pid 7 since noon after 0 s"):
        Bench("ssh://board")(replace(job, wait_s=0.0))
    assert (lock / "token").read_text() == "t"
    (lock / "beat").write_text("1\n")
    (lock / "job").write_text(f"{os.getpid()}\n")  # no sign of life, but its benchmark runs
    with pytest.raises(ToolchainMissing, match="still in use"):
        Bench("ssh://board")(replace(job, wait_s=0.0))
    (lock / "job").write_text("4194305\n")
    bench = Bench("ssh://board")
    bench(job)
    assert "took over a stale lock of ann@desk pid 7 since noon" in bench.told.text
    assert sshd.left() == []


@pytest.fixture
def tiny_disk(sshd: PlainSshd) -> Iterator[Path]:
    place = sshd.folder / "tiny"
    place.mkdir(exist_ok=True)
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]).returncode:
        pytest.skip("needs root and mount, for a disk that is soon full")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_seen_before(sshd: PlainSshd, job: Job, tiny_disk: Path):
    with pytest.raises(StageFailed, match=r"the board's disk is full: .* has 2\.\d MB free and needs 1\d\.\d MB"):
        Bench(f"ssh://board{tiny_disk}")(job)
    assert list(tiny_disk.iterdir()) == []
    assert sshd.left() == []


def test_a_full_disk_is_handled_when_it_happens(sshd: PlainSshd, large: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remote, "ROOM", -(1 << 30))  # the disk fills up after the look at it
    with pytest.raises(StageFailed, match=r"the board cannot store more \(No space left on device\)"):
        Bench(f"ssh://board{tiny_disk}")(make_job(large))
    assert list(tiny_disk.iterdir()) == []
    assert sshd.left() == []
