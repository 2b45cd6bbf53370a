"""An Android device over adb, its real client. The bundle lies in the shell's TMPDIR, which is ``/data/local/tmp``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import ToolchainMissing, UsageError
from targets.transports.common.base import BundleFile, DroppedError, Identity
from targets.transports.common.board import ANSWER_S
from targets.transports.common.process import Done, run
from targets.transports.common.shell import ShellTransport

BASE = "/data/local/tmp"

RECONNECT_S = 10.0
"""Seconds that a device gets to come back."""

_SERIAL = re.compile(r"[A-Za-z0-9][\w.:\[\]-]*", re.ASCII)

_LOST = ("offline", "no devices/emulators", "not found", "protocol fault", "closed", "connection reset", "failed to read", "couldn't")


class Adb(ShellTransport):
    """``adb[:serial]``; without a serial the only device that is connected."""

    scheme = "adb"
    form = "adb[:serial]"

    def __init__(self, rest: str, say: Callable[[str], None]) -> None:
        super().__init__(rest, say)
        if rest and not _SERIAL.fullmatch(rest):
            raise UsageError(f"--on adb:{rest}", "is not a serial number", "see 'adb devices'")
        self.serial = rest

    @classmethod
    def around(cls) -> list[str]:
        """The devices that adb's server knows and that answer; where none runs, none is started."""
        port = os.environ.get("ANDROID_ADB_SERVER_PORT") or "5037"
        if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            return []
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
        except OSError:
            return []
        if shutil.which("adb") is None:
            return []
        rows = (line.split("\t") for line in run(["adb", "devices"], 10).text.splitlines())
        return [f"{cls.scheme}:{row[0]}" for row in rows if row[1:] == ["device"] and _SERIAL.fullmatch(row[0])]

    def _adb(self, *words: str) -> list[str]:
        return ["adb", *(["-s", self.serial] if self.serial else []), *words]

    def _command(self, argv: Sequence[str]) -> list[str]:
        return self._adb("shell", "-T", shlex.join(argv))

    def _dropped(self, done: Done) -> str:
        """The client's own errors begin with its name; those of a command on the device do not."""
        said = done.err.splitlines()[-1] if done.err else ""
        ours = said.startswith(("adb:", "error:")) and any(word in said for word in _LOST)
        return said if done.code and ours else "the device closed the connection" if done.code in {255, -1} else ""

    def _base(self, identity: Identity) -> str:
        return identity["tmp"]

    def identity(self, limit_s: float = ANSWER_S) -> Identity:
        """What the device says it is; where its shell names no folder for temporary files, the one that every device has."""
        found = super().identity(limit_s)
        return {**found, "tmp": BASE} if found.get("tmp", "/tmp") == "/tmp" else found

    def _put(self, source: Path, folder: str, file: BundleFile, offset: int) -> Done:
        """By adb push, file by file; the device throws away what it has of a file that was interrupted."""
        del offset
        parent = self.sh('mkdir -p "$1"', str(Path(folder, file.name).parent))
        if parent.code:
            return parent
        done = run(self._adb("push", str(source), f"{folder}/{file.name}"), 60 + file.size / 20e3)
        words = done.err.splitlines()[-1] if done.err else ""
        if done.code and (self._dropped(done) or "error" not in words):  # a cut cable has no words of its own
            raise DroppedError(self._dropped(done) or "the transfer was cut")
        self.refuse_full(done)
        return done

    def _open(self) -> None:
        if shutil.which("adb") is None:
            raise ToolchainMissing("adb", "is not installed", "apt-get install adb")
        state = run(self._adb("get-state"), 30)
        if state.code == 0 and state.text.strip() == "device":
            return
        said = (state.err or state.text).strip().splitlines()
        last = said[-1] if said else "no answer"
        if "unauthorized" in last:
            raise ToolchainMissing(self.name, "the device has not allowed this computer", "unlock it and confirm the key that it shows")
        if "more than one" in last:
            raise ToolchainMissing(self.name, "several devices are connected", "name one: --on adb:SERIAL (see 'adb devices')")
        if ":" in self.serial or "offline" in last:
            self._reconnect()
            return
        raise DroppedError(last)

    def _reconnect(self) -> None:
        """Wait for a device whose cable was pulled, or that the server forgot because it is reached over the network."""
        deadline = time.monotonic() + RECONNECT_S
        while True:
            if ":" in self.serial:
                run(["adb", "disconnect", self.serial], 30)
                run(["adb", "connect", self.serial], 30)
            state = run(self._adb("get-state"), 30)
            if state.code == 0 and state.text.strip() == "device":
                return
            if time.monotonic() > deadline:
                raise DroppedError(state.err.splitlines()[-1] if state.err else "no answer")
            time.sleep(0.5)


TRANSPORT = Adb
