"""From a finished run to an ingested result: the bundle that a run really made, on an aarch64 board behind a real sshd."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.boards.sshd import Board, ssh_board
from tests.e2e.conftest import ROOT, pipeline, report_of

pytestmark = pytest.mark.slow

MODEL = "Raspberry Pi 5 Model B Rev 1.0"


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """A Raspberry Pi 5, as far as its name, its CPU's features and its C library go; the system's ssh finds it as "board"."""
    (tmp_path / "board").mkdir()
    with ssh_board(tmp_path / "board", model=MODEL, l4t="") as found:
        client = tmp_path / "client"
        client.mkdir()
        (client / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {found.config} "$@"\n')
        (client / "ssh").chmod(0o755)
        monkeypatch.setenv("PATH", str(client), prepend=":")
        yield found


def small_frames(path: Path) -> Path:
    """The Raspberry Pi 5 with frames that an emulated CPU restores in time."""
    tree = yaml.safe_load((ROOT / "targets/raspberry-pi-5.yaml").read_text())
    path.write_text(yaml.safe_dump({**tree, "frame": {"width": 160, "height": 96}}))
    return path


def test_the_bundle_of_a_run_verifies_benchmarks_and_is_ingested_over_ssh(short_run: tuple[Path, dict], board: Board, tmp_path: Path):
    folder = shutil.copytree(short_run[0], tmp_path / "e2e", symlinks=True)  # its trainings; other tests look at its latest run
    target, workspace = small_frames(tmp_path / "raspberry-pi-5.yaml"), folder / ".pipeline"
    only = ("--set", "stages.compile.with.backends=[tvm]", "--set", "stages.compile.with.threads=1")
    done = pipeline("run", folder / "pipeline.yaml", "--target", target, "--workspace", workspace, *only)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: the estimate of a tiny student's latency decides
    run, chosen = (workspace / "runs/latest").resolve(), report_of(workspace)["stages"][-2]
    out = tmp_path / "result.json"
    words = ("--on", "ssh://board", "--seconds", "0.2", "--target", target, "--out", out, "--ingest", run)
    done = pipeline("bench", run, *words)
    assert out.exists(), done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert (result["verified"], result["device"]["runtime"], result["device"]["machine"]) == (True, "native runner", "aarch64")
    assert (result["device"]["board"], result["device"]["glibc"]) == ("recognised", "2.31")
    assert result["artifact"] in {c["name"].partition(" ")[0] for c in chosen["candidates"] if c["chosen"]}
    assert [p.name for p in board.home.iterdir() if p.name.startswith("deblur")] == []
    if done.returncode == 4:  # emulation is no board: its timing may be anything
        assert "the timing was unstable" in done.stderr
    else:
        assert done.returncode in (0, 3), done.stderr
        assert json.loads((run / "report.json").read_text())["version"] == 2
