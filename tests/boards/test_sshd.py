"""The board that other tests build on is what it says it is."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boards.sshd import Board, ssh_board

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with ssh_board(tmp_path_factory.mktemp("board")) as found:
        yield found


def test_python_is_aarch64_with_the_c_library_of_jetpack_5(board: Board):
    done = board.ssh("python3", "-c", "import platform; print(platform.machine(), *platform.libc_ver())")
    assert done.stdout == "aarch64 glibc 2.31\n", done.stderr
    assert board.ssh("cat", "/proc/device-tree/model", "/etc/nv_tegra_release").stdout.startswith("NVIDIA Jetson AGX Xavier")


def test_what_python_starts_is_aarch64_too(board: Board):
    inner = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import os; print(os.uname().machine)']))"
    assert board.ssh("python3", "-c", inner).stdout == "aarch64\n"


@pytest.mark.parametrize("runtime", ["numpy", "onnxruntime", "ai_edge_litert.interpreter"])
def test_the_runtimes_can_be_imported(board: Board, runtime: str):
    done = board.ssh("python3", "-c", f"import {runtime}")
    assert done.returncode == 0, done.stderr


def test_arguments_input_and_exit_status_come_through(board: Board):
    assert board.ssh("echo", "a  b", "$HOME; `id`").stdout == "a  b $HOME; `id`\n"
    assert board.ssh("cat", input="from here").stdout == "from here"
    assert board.ssh("sh", "-c", "exit 7").returncode == 7


def test_files_go_over_sftp_and_are_seen_from_here(board: Board, tmp_path: Path):
    data = os.urandom(100_000)
    (tmp_path / "data").write_bytes(data)
    batch = f"put {tmp_path / 'data'} there\nget there {tmp_path / 'back'}\n"
    done = subprocess.run(["sftp", "-q", "-F", board.config, "-b", "-", "board"], input=batch, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (board.home / "there").read_bytes() == (tmp_path / "back").read_bytes() == data


def test_a_dropped_board_ends_what_ran_there(board: Board):
    client = subprocess.Popen(["ssh", "-F", board.config, "board", "touch running; sleep 600"])
    while not (board.home / "running").exists():
        time.sleep(0.05)
    board.drop()
    assert client.wait(timeout=30) == 255
    assert "sleep 600" not in board.ssh("sh", "-c", "ps | grep -v grep").stdout
    assert board.ssh("echo", "back").stdout == "back\n"


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_small_disk_is_full_soon(tmp_path: Path):
    with ssh_board(tmp_path, disk_mb=1) as board:
        done = board.ssh("dd", "if=/dev/zero", "of=/root/large", "bs=1M", "count=2")
        assert done.returncode != 0
        assert "No space left on device" in done.stderr
