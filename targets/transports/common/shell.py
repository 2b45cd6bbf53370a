"""A board that has a shell: everything but how its commands get there."""

from __future__ import annotations

import os
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pipeline.errors import StageFailed, ToolchainMissing
from targets.transports.common import scripts
from targets.transports.common.base import BundleFile, DroppedError, Fetched, Identity, Job, Transport
from targets.transports.common.choice import fitted
from targets.transports.common.line import Line
from targets.transports.common.process import Done, run
from targets.transports.common.remote import Folder, RemoteJob

T = TypeVar("T")

RETRY_WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new try at a lost connection."""

FULL = ("No space left on device", "Disk quota exceeded", "File too large")


class ShellTransport(Transport):
    """A way to a board that runs POSIX sh.

    A subclass says how a command gets there (``_command``), when a failure means that the connection is lost (``_dropped``), and
    where bundles lie (``_base``).
    """

    python: str = "python3"
    brings_python: bool = False

    @abstractmethod
    def _command(self, argv: Sequence[str]) -> list[str]:
        """The local command that runs ``argv`` on the board."""

    @abstractmethod
    def _dropped(self, done: Done) -> str:
        """How the connection was lost, "" when it was not."""

    @abstractmethod
    def _base(self, identity: Identity) -> str:
        """Absolute path of the folder on the board in which the bundle gets its own."""

    def _open(self) -> None:
        """Connect; raises DroppedError when the board cannot be reached, ToolchainMissing when trying again is of no use."""

    def _close(self) -> None:
        """Give up the connection."""

    def _program(self, argv: Sequence[str], folder: str) -> list[str]:
        """The command on the board for a step of a job in a folder there."""
        del folder
        return [self.python, "-u", *argv[1:]] if argv[0] == "python" else list(argv)

    def _put(self, source: Path, folder: str, file: BundleFile, offset: int) -> Done:
        """Send a file from ``offset`` on."""
        parent = os.path.dirname(file.name) or "."  # noqa: PTH120 - a path on the board
        limit = 60 + (file.size - offset) / 20e3
        return self.sh(scripts.WRITE, folder, parent, file.name, str(offset), source=source, offset=offset, timeout=limit)

    def lock_path(self, identity: Identity) -> str:
        """The lock that all users of the board share."""
        return f"{identity.get('tmp', '/tmp')}/deblur-bench.line"

    # what the steps build on

    def sh(self, script: str, *args: str, source: Path | None = None, offset: int = 0, timeout: float = 60.0, until: bytes = b"") -> Done:
        """Run a script of ``scripts`` on the board with positional parameters; the rest as ``process.run``.

        Raises:
            DroppedError: the connection is lost.
            StageFailed: the board's disk is full.

        """
        done = run(self._command(["sh", "-c", script, "deblur-bench", *args]), timeout, source, offset, until)
        lost = "no answer in time" if done.code == -1 else self._dropped(done)
        if lost:
            raise DroppedError(lost)
        self.refuse_full(done)
        return done

    def refuse_full(self, done: Done) -> None:
        """Raise StageFailed when a command failed because the board's disk is full."""
        reason = next((word for word in FULL if word in done.err), "") if done.code else ""
        if reason:
            raise StageFailed(self.name, f"the board cannot store more ({reason})", "free some space there, or name another folder")

    def checked(self, script: str, *args: str) -> str:
        """The output of a script that must succeed.

        Raises:
            DroppedError: the connection is lost.
            StageFailed: it failed; with the board's own words.

        """
        done = self.sh(script, *args)
        if done.code:
            words = done.err.splitlines()[-1] if done.err else f"status {done.code}"
            raise StageFailed(self.name, f"a command failed on the board: {words}", "check that the folder exists and may be written to")
        return done.text

    def put(self, source: Path, folder: str, file: BundleFile, offset: int) -> Done:
        """Send the rest of a file; raises as ``sh`` does."""
        return self._put(source, folder, file, offset)

    def steady(self, step: Callable[[], T]) -> T:
        """A step that may be repeated, over connections that may be lost.

        Raises:
            ToolchainMissing: the connection cannot be kept up.

        """
        last = ""
        for wait in (*RETRY_WAITS, None):
            try:
                return step()
            except DroppedError as e:
                last = str(e)
            if wait is not None:
                self.say(f"connection lost ({last}), trying again in {wait:g} s")
                time.sleep(wait)
                self._reopen()
        hint = "run the same command again: what arrived is kept, and a benchmark that ended meanwhile is fetched"
        raise ToolchainMissing(self.name, f"the connection was lost {len(RETRY_WAITS) + 1} times ({last})", hint)

    def _reopen(self) -> None:
        with suppress(DroppedError):  # the step itself says so when it is tried
            self._close()
            self._open()

    # the protocol

    def bench(self, job: Job, salvage: Callable[[Mapping[str, bytes]], None]) -> Fetched:
        """Carry out a job: see ``Transport.bench``."""
        try:
            try:
                self._open()
            except DroppedError as e:
                raise ToolchainMissing(self.name, f"cannot be reached ({e})", "check that the board is on and the address is right") from e
            identity = self.steady(self.identity)
            job.check(identity)
            job = fitted(self.name, job, identity, self.say)
            with Line(self, self.lock_path(identity), job.wait_s) as line:
                return self._in_line(job, identity, line, salvage)
        finally:
            self._close()

    def _in_line(self, job: Job, identity: Identity, line: Line, salvage: Callable[[Mapping[str, bytes]], None]) -> Fetched:
        where = f"{self._base(identity)}/deblur-bench-{identity.get('uid', '0')}-{job.sha256[:16]}"
        folder = Folder(self, where, job)
        remote = RemoteJob(self, folder, job, line.path, self._program)
        try:
            return Fetched(self._carried_out(job, folder, remote, salvage), identity)
        finally:
            with suppress(ToolchainMissing):  # the error that led here is the one to show
                self._clean_up(job, folder, remote)

    def _carried_out(self, job: Job, folder: Folder, remote: RemoteJob, salvage: Callable[[Mapping[str, bytes]], None]) -> dict[str, bytes]:
        self.steady(folder.make)
        finished = self.steady(remote.left_behind)
        if not finished:
            self.steady(folder.check_room)
            folder.fill()
        try:
            remote.run()
        except StageFailed:
            with suppress(StageFailed, ToolchainMissing):
                salvage(self.steady(remote.fetch_what_is_there))
            raise
        return self.steady(remote.fetch)

    def _clean_up(self, job: Job, folder: Folder, remote: RemoteJob) -> None:
        try:
            self.steady(remote.stop)
            self.steady(remote.forget if job.keep else folder.remove)
        except (ToolchainMissing, StageFailed) as e:
            self.say(f"could not clean {folder.path} on {self.name} ({e.what}); the next bench of this bundle takes it up")

    def identity(self) -> Identity:
        """What the board says it is; "lacks" names python3 or numpy where it has not got them.

        Raises:
            DroppedError: the connection is lost.
            ToolchainMissing: it lacks a tool that a benchmark needs.

        """
        lines = self.checked(scripts.IDENTITY, "" if self.brings_python else self.python).splitlines()
        known = {key: value.strip() for key, found, value in (line.partition("=") for line in lines) if found}
        known["l4t"] = _l4t(known.pop("l4t", ""))
        missing = known.pop("missing", "")
        if missing:
            raise ToolchainMissing(
                self.name, f"the board has no {', '.join(missing.split())}", "install it there; the bundle's README says what it needs"
            )
        return {key: value for key, value in known.items() if value}


def _l4t(text: str) -> str:
    """L4T as "R35.2.1" of the first line of /etc/nv_tegra_release ("# R35 (release), REVISION: 2.1, ..."), "" for another text."""
    found = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return "R{}.{}".format(*found.groups()) if found else ""
