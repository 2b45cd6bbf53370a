"""A real sshd on loopback whose board is this machine with a home folder, a /tmp and a python3 of its own; see tests/boards for aarch64."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

SBIN = "/usr/sbin:/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 50
ForceCommand {folder}/login
"""

CLIENT = """\
Host board
  HostName 127.0.0.1
  Port {port}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""


class PlainSshd:
    """The server, and a client configuration in which it is called ``board``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.tmp, self.bin = folder, folder / "home", folder / "tmp", folder / "bin"
        for path in (self.home, self.tmp, self.bin):
            path.mkdir()
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        for key in ("host_key", "user_key", "other_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        values = {"folder": folder, "port": self.port}
        (folder / "sshd_config").write_text(SERVER.format(**values))
        (folder / "config").write_text(CLIENT.format(**values))
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host_key.pub').read_text()}")
        path = f"{self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin"
        own = shlex.join([f"HOME={self.home}", f"TMPDIR={self.tmp}", f"PATH={path}"])
        _program(folder / "login", f'#!/bin/sh\nexec env {own} /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
        (folder / "client").mkdir()
        _program(folder / "client/ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/config "$@"\n')

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        log = (self.folder / "sshd.log").open("ab")
        command = [str(shutil.which("sshd", path=SBIN)), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not _greets(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "sshd.log").read_text())
            time.sleep(0.02)

    def drop(self) -> None:
        """Kill every connection and what runs in it; the server goes on."""
        if self._process is not None:
            for pid in _descendants(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        if self._process is not None:
            children = _descendants(self._process.pid)
            self._process.kill()
            self._process.wait()
            self._process = None
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def left(self) -> list[str]:
        """What lies on the board."""
        return sorted(p.name for folder in (self.home, self.tmp) for p in folder.iterdir())


def plain_sshd(folder: Path) -> PlainSshd:
    """The server, not started; skips the test where OpenSSH is not installed."""
    for program, package in (("sshd", "openssh-server"), ("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")):
        if not shutil.which(program, path=SBIN):
            pytest.skip(f"needs {program}: apt-get install {package}")
    return PlainSshd(folder)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            return s.recv(4) == b"SSH-"
    except OSError:
        return False


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(status.read_text().rpartition(")")[2].split()[1]), []).append(int(status.parent.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found
