"""ssh: boards that cannot be reached, and addresses."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import ToolchainMissing, UsageError
from targets.transports import open_transport
from targets.transports.common.base import Job
from targets.transports.ssh import Ssh
from tests.targets.transports.conftest import Bench
from tests.targets.transports.plain_sshd import PlainSshd


def test_a_board_that_is_off(sshd: PlainSshd, job: Job):
    sshd.stop()
    try:
        with pytest.raises(ToolchainMissing, match=r"ssh://board: cannot be reached \(.*Connection refused"):
            Bench("ssh://board")(job)
    finally:
        sshd.start()


def test_a_board_that_refuses_the_key(sshd: PlainSshd, job: Job):
    config = (sshd.folder / "config").read_text()
    (sshd.folder / "config").write_text(config.replace("user_key", "other_key"))
    try:
        with pytest.raises(ToolchainMissing) as e:
            Bench("ssh://board")(job)
    finally:
        (sshd.folder / "config").write_text(config)
    assert "the board refused every key" in e.value.what
    assert "ssh-copy-id board" in e.value.hint


def test_a_board_with_another_host_key(sshd: PlainSshd, job: Job):
    known = (sshd.folder / "known_hosts").read_text()
    (sshd.folder / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {(sshd.folder / 'other_key.pub').read_text()}")
    try:
        with pytest.raises(ToolchainMissing, match="host key is not the known one"):
            Bench("ssh://board")(job)
    finally:
        (sshd.folder / "known_hosts").write_text(known)


def test_a_board_without_python(sshd: PlainSshd, job: Job):
    login = (sshd.folder / "login").read_text()
    (sshd.folder / "login").write_text(login.replace("PATH=", "PATH=/nowhere:", 1).replace(f":{Path(sys.executable).parent}", ""))
    for tool in ("python3",):
        with suppress(FileNotFoundError):
            (sshd.bin / tool).unlink()
    try:
        if subprocess.run(["sh", "-c", "PATH=/usr/bin:/bin command -v python3"], capture_output=True).returncode == 0:
            pytest.skip("this machine's own python3 cannot be hidden")
        with pytest.raises(ToolchainMissing, match="the board has no python3"):
            Bench("ssh://board")(job)
    finally:
        (sshd.folder / "login").write_text(login)


def test_no_trace_of_the_connection_is_left(sshd: PlainSshd, job: Job):
    before = set(Path("/tmp").glob("deblur-ssh-*"))
    Bench("ssh://board")(job)
    assert set(Path("/tmp").glob("deblur-ssh-*")) == before


@pytest.mark.parametrize("rest", ["", "-oProxyCommand=x", "u@-h", "a b", "h:99999", "h:x", "u@h@i", "h;id", "$(id)", "u:p@h", "h\n"])
def test_what_is_no_address_is_refused(rest: str):
    with pytest.raises(UsageError, match="is not an address"):
        open_transport(f"ssh://{rest}", print)


def test_what_is_one_becomes_arguments_of_ssh():
    way = open_transport("ssh://ann@[::1%eth0]:2222/data/a b", print)
    assert isinstance(way, Ssh)
    command = way._command(["cat", "it's"])
    assert command[command.index("--") + 1 :] == ["::1%eth0", "cat 'it'\"'\"'s'"]
    assert command[command.index("-l") + 1] == "ann"
    assert command[command.index("-p") + 1] == "2222"
    assert way.directory == "/data/a b"
    assert "BatchMode=yes" in command
