"""A board behind OpenSSH: a real sshd on loopback whose shell, Python and C library are aarch64, under qemu.

::

    @pytest.fixture(scope="module")
    def board(tmp_path_factory):
        with ssh_board(tmp_path_factory.mktemp("board")) as board:   # skips, with the reason, what is not installed
            yield board

    def test(board): assert board.ssh("uname", "-m").stdout == "aarch64\\n"

The system's ``ssh`` and ``sftp`` reach it by the name ``board`` with the configuration file ``board.config`` (``ssh -F``). Files of the
board lie under ``board.root`` on this machine, its home folder in ``board.home``: look at them, plant them, damage them.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from targets.emulate.emulator import Emulator

SBIN = "/usr/sbin:/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")
PROGRAMS = {"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
JETSON = "NVIDIA Jetson AGX Xavier Developer Kit"
L4T = "# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref, EABI: aarch64, DATE: Tue Jan 24 23:38:33 UTC 2023\n"

SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxSessions 20
MaxStartups 50
Subsystem sftp /usr/lib/openssh/sftp-server
ForceCommand {folder}/login
"""

CLIENT = """\
Host board
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {folder}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
"""

LOGIN = """\
#!/bin/sh
# what sshd runs for every session: the command that was asked for, in the emulated machine
exec env -i {environment} {command} /bin/sh -c "${{SSH_ORIGINAL_COMMAND:-exec /bin/sh}}"
"""


class Board:
    """An sshd with an emulated machine behind it.

    Args:
        folder: an existing folder for keys, configuration, log and the board's files; a path without spaces.
        emulator: the machine.
        model: text of /proc/device-tree/model; empty for a board that has none.
        l4t: text of /etc/nv_tegra_release, likewise.
        disk_mb: size of the disk that holds /root; 0 for this machine's. Needs root; ``home`` is then not visible from here.

    """

    def __init__(self, folder: Path, emulator: Emulator, model: str = JETSON, l4t: str = L4T, disk_mb: int = 0) -> None:
        self.folder, self.root, self.disk_mb = folder, folder / "root", disk_mb
        self.home = self.root / "root"
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.port = free_port()
        self.config, self.log = folder / "ssh_config", folder / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._install(emulator, model, l4t)
        self._configure()

    def _install(self, emulator: Emulator, model: str, l4t: str) -> None:
        self.root.mkdir()
        emulator.lay_out(self.root)
        if l4t:
            (self.root / "etc/nv_tegra_release").write_text(l4t)
        if model:
            (self.folder / "model").write_bytes(model.encode() + b"\0")
            emulator = replace(emulator, binds={**emulator.binds, "/proc/device-tree/model": self.folder / "model"})
        command = shlex.join(emulator.command(self.root, [], "/root"))
        environment = shlex.join(f"{k}={v}" for k, v in emulator.environment().items())
        login = self.folder / "login"
        login.write_text(LOGIN.format(environment=environment, command=command))
        login.chmod(0o755)

    def _configure(self) -> None:
        values = {"folder": self.folder, "port": self.port, "user": self.user}
        for key in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / key], check=True)
        (self.folder / "sshd_config").write_text(SSHD.format(**values))
        self.config.write_text(CLIENT.format(**values))
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {(self.folder / 'host_key.pub').read_text()}")

    def start(self) -> None:
        """Start sshd, also again after ``stop``; returns when it answers."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd does not start as root without it
        command = [str(shutil.which("sshd", path=SBIN)), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        if self.disk_mb:
            disk = f"mount -t tmpfs -o size={self.disk_mb}m none {shlex.quote(str(self.home))} && exec {shlex.join(command)}"
            command = ["unshare", "-m", "sh", "-c", disk]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"sshd did not start: {self.log.read_text()}")
            time.sleep(0.05)

    def drop(self) -> None:
        """Kill every session with all that runs in it, as when the network goes and the board restarts; sshd goes on."""
        if self._process is not None:
            for pid in descendants(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop sshd and every session, as when the board loses its power; the files stay unless the disk was of its own."""
        if self._process is not None:
            children = descendants(self._process.pid)
            self._process.kill()
            self._process.wait()
            self._process = None
            for pid in children:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def ssh(self, *argv: str, input: str | None = None, seconds: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command on the board through the system's client, each argument quoted for the shell there."""
        command = ["ssh", "-F", str(self.config), "board", shlex.join(argv)]
        return subprocess.run(command, capture_output=True, text=True, input=input or "", timeout=seconds)


@contextmanager
def ssh_board(folder: Path, cpu: str = "cortex-a76", system: str = "bullseye", **more: object) -> Iterator[Board]:
    """Run a board (``Board`` says what ``more`` may be); skips the test, with the reason, where something is not installed."""
    lacking = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program, path=SBIN)})
    if lacking:
        pytest.skip(f"needs {' '.join(lacking)}: apt-get install {' '.join(lacking)}")
    emulator = Emulator(cpu, system)
    if emulator.missing():
        pytest.skip(f"needs emulation: {emulator.missing()}")
    board = Board(folder, emulator, **more)
    board.start()
    try:
        yield board
    finally:
        board.stop()


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answers(port: int) -> bool:
    """Whether an SSH server greets at a port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
            return s.recv(4) == b"SSH-"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Processes that a process started, directly or not."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(status.read_text().rpartition(")")[2].split()[1]), []).append(int(status.parent.name))
    found = list(parents.get(pid, []))
    for child in found:  # grows while it is walked
        found += parents.get(child, [])
    return found
