"""What goes wrong after the bundle is there: the disk fills up under the benchmark, and the result is damaged on its way back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StageFailed, ToolchainMissing
from targets.transports.common import remote
from tests.boards.bundle_example import small_bundle
from tests.targets.transports.conftest import Bench, make_job
from tests.targets.transports.plain_sshd import PlainSshd
from tests.targets.transports.test_ssh import tiny_disk

pytestmark = pytest.mark.slow
__all__ = ["tiny_disk"]

GREEDY = b"""
import os, sys
print("PASS greedy", flush=True)
with open("heap", "wb", buffering=0) as f:
    while True:
        f.write(os.urandom(65536))
"""

CAT = """#!/bin/sh
for last; do :; done
if [ "$last" = ./result.json ] && [ {condition} ]; then
  echo >> {count}
  exec /bin/cat "$@" | tr 0 1
fi
exec /bin/cat "$@"
"""
"""What changes digits of a result on its way, as a bad memory or cable does."""


def test_a_disk_that_fills_up_under_the_benchmark_is_said_and_its_log_kept(
    sshd: PlainSshd, tmp_path: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "ROOM", 0)  # the disk has room for the bundle
    made = small_bundle(tmp_path / "bundle", extra={"greedy.py": GREEDY})
    bench = Bench(f"ssh://board{tiny_disk}")
    with pytest.raises(StageFailed) as e:
        bench(make_job(made, steps=(("python", "greedy.py"),)))
    assert "greedy.py was killed on the board (without a status, and its disk is full: 0.0 MB free)" in e.value.what  # no room for one
    assert "No space left on device" in e.value.what
    assert bench.salvaged["log"].startswith(b"PASS greedy")
    assert list(tiny_disk.iterdir()) == []
    assert sshd.left() == []


@pytest.fixture
def bad_cat(sshd: PlainSshd, tmp_path: Path) -> Iterator[Path]:
    """A ``cat`` on the board that damages a result as long as the file it is given has no two lines."""
    program = sshd.bin / "cat"
    yield program
    program.unlink(missing_ok=True)


def damage(program: Path, count: Path, times: int) -> None:
    count.write_text("")
    program.write_text(CAT.format(condition=f'"$(wc -l < {count})" -lt {times}', count=count))
    program.chmod(0o755)


def test_a_result_that_is_damaged_on_its_way_back_is_fetched_again(sshd: PlainSshd, tmp_path: Path, bad_cat: Path, bundle: Path):
    damage(bad_cat, tmp_path / "count", 2)
    bench = Bench("ssh://board")
    assert json.loads(bench(make_job(bundle)).files["result.json"])["verified"]
    assert bench.told.text.count("result.json was damaged on its way back") == 2
    assert sshd.left() == []


def test_a_result_that_stays_damaged_is_refused(sshd: PlainSshd, tmp_path: Path, bad_cat: Path, bundle: Path):
    damage(bad_cat, tmp_path / "count", 99)
    with pytest.raises(ToolchainMissing, match=r"the connection was lost 4 times \(result\.json was damaged on its way back\)"):
        Bench("ssh://board")(make_job(bundle))
    bad_cat.unlink()
    assert sshd.left() == []
