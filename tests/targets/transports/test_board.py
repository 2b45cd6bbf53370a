"""A board as CI can have it: aarch64, glibc 2.31, behind a real sshd; the exact bundle goes there and its result into the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boards.run_example import BOARD, make_run
from tests.boards.sshd import Board, ssh_board
from tests.pipeline.conftest import cli

pytestmark = pytest.mark.slow
__all__ = ["cli"]

XAVIER = BOARD.replace('recognise: {model: "^Toy Board"}', 'recognise: {model: "Jetson AGX Xavier", l4t: "R35"}')
BENCH = ("--on", "ssh://board", "--seconds", "0.2", "--limit", "600")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with ssh_board(tmp_path_factory.mktemp("board")) as found:
        yield found


@pytest.fixture
def client(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's ssh with the board's configuration; a run to bench, for a Xavier."""
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {board.config} "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    run = make_run(tmp_path / "run")
    (run / "board.yaml").write_text(XAVIER)
    return run


def test_from_a_finished_run_to_an_ingested_result_over_ssh(
    board: Board, client: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
):
    out = tmp_path / "result.json"
    code, said, err = cli("bench", client, *BENCH, "--out", out, "--target", client / "board.yaml", "--ingest", client)
    assert out.exists(), err
    result = json.loads(out.read_text())
    assert (result["device"]["machine"], result["board"]["machine"]) == ("aarch64", "aarch64")
    assert result["board"]["l4t"] == "R35.2.1"
    assert result["verified"] is True
    assert "taken for toy-board" in said
    assert [p.name for p in board.home.iterdir() if p.name.startswith("deblur")] == []
    if code == 4:  # emulation is no board: its timing may be anything
        assert "the timing was unstable" in err
    else:
        assert code in {0, 3}, err
        assert json.loads((client / "report.json").read_text())["version"] == 2


def test_another_board_gets_nothing(board: Board, client: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    (client / "board.yaml").write_text(BOARD.replace("^Toy Board", "Raspberry Pi 5"))
    code, _, err = cli("bench", client, *BENCH, "--out", tmp_path / "result.json", "--target", client / "board.yaml")
    assert code == 6
    assert "is NVIDIA Jetson AGX Xavier Developer Kit (R35.2.1), not toy-board: its model is" in err
    assert [p.name for p in board.home.iterdir() if p.name.startswith("deblur")] == []
