"""A board over the system's OpenSSH: the user's own configuration, keys and agent, one connection for all commands.

Nothing asks for a password. Commands are fixed scripts whose arguments are quoted; files go through standard input, so that a name
is never part of a command line that a shell or sftp would expand, and a board needs no sftp server.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import ToolchainMissing, UsageError
from targets.transports.common.base import DroppedError, Identity
from targets.transports.common.process import Done
from targets.transports.common.shell import ShellTransport

CONNECT_S = 15
"""Seconds until a board that does not answer counts as off."""

_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.+-]*\$?)@)?(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[A-Za-z0-9_][\w.-]*)(?::(?P<port>\d{1,5}))?(?P<dir>/.*)?",
    re.ASCII | re.DOTALL,
)

_FINAL = (
    ("Permission denied", "the board refused every key", "let 'ssh {host}' log in without a password: ssh-copy-id {host}, or ssh-add"),
    ("Host key verification failed", "the board's host key is not the known one", "log in once with 'ssh {host}' and check the key"),
    ("Could not resolve hostname", "there is no such host", "check the name, or give an address or a Host of ~/.ssh/config"),
    ("Bad configuration option", "ssh cannot read its configuration", "mend ~/.ssh/config"),
    ("Too many authentication failures", "the board refused every key", "name the key in ~/.ssh/config: IdentityFile, IdentitiesOnly yes"),
)
"""What ssh says when trying again is of no use, what it means, and the next step."""


class Ssh(ShellTransport):
    """``ssh://[user@]host[:port][/dir]``; ``dir`` is an existing folder on the board, by default the user's home."""

    scheme = "ssh"
    form = "ssh://[user@]host[:port][/dir]"

    def __init__(self, rest: str, say: Callable[[str], None]) -> None:
        super().__init__(rest, say)
        found = _ADDRESS.fullmatch(rest)
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise UsageError(f"--on ssh://{rest}", "is not an address", f"write {self.form}")
        self.host = found["host"].strip("[]")
        self.directory = (found["dir"] or "").rstrip("/")
        user = ["-l", found["user"]] if found["user"] else []
        self._to = [*user, *(["-p", found["port"]] if found["port"] else [])]
        self._private = ""
        self._master: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The address as it was given."""
        return f"ssh://{self.rest}"

    def _ssh(self, *options: str) -> list[str]:
        alive = ["ServerAliveInterval=5", "ServerAliveCountMax=3", f"ConnectTimeout={CONNECT_S}", "ConnectionAttempts=1"]
        silent = ["BatchMode=yes", "ForwardX11=no", "ForwardAgent=no", "RequestTTY=no", "RemoteCommand=none", "EscapeChar=none"]
        settings = [word for option in (*alive, *silent, f"ControlPath={self._private}/c") for word in ("-o", option)]
        return ["ssh", "-T", *settings, *self._to, *options, "--", self.host]

    def _command(self, argv: Sequence[str]) -> list[str]:
        return [*self._ssh("-o", "ControlMaster=no"), shlex.join(argv)]

    def _dropped(self, done: Done) -> str:
        """255 is ssh's own status; the scripts never end with it."""
        return (done.err.splitlines()[-1] if done.err else "ssh ended") if done.code == 255 else ""

    def _base(self, identity: Identity) -> str:
        return self.directory or identity.get("home", "/tmp")

    def _open(self) -> None:
        if shutil.which("ssh") is None:
            raise ToolchainMissing("ssh", "is not installed", "apt-get install openssh-client")
        self._private = tempfile.mkdtemp(prefix="deblur-ssh-", dir="/tmp")  # a socket's path may have 104 characters
        log = Path(self._private, "log")
        with log.open("wb") as errors:
            command = self._ssh("-M", "-N", "-o", "ControlPersist=no")
            self._master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        deadline = time.monotonic() + 2 * CONNECT_S
        while not Path(self._private, "c").exists():
            if self._master.poll() is not None or time.monotonic() > deadline:
                raise self._refusal(log.read_text(errors="replace").strip())
            time.sleep(0.02)

    def _refusal(self, said: str) -> Exception:
        last = said.splitlines()[-1] if said else "no answer"
        for words, what, hint in _FINAL:
            if words in said:
                return ToolchainMissing(self.name, f"{what} ({last})", hint.format(host=self.host))
        return DroppedError(last)

    def _close(self) -> None:
        if self._master is not None:
            self._master.terminate()
            try:
                self._master.wait(5)
            except subprocess.TimeoutExpired:
                self._master.kill()
                self._master.wait()
        if self._private:
            shutil.rmtree(self._private, ignore_errors=True)
        self._master, self._private = None, ""


TRANSPORT = Ssh
