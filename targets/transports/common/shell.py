"""A board that has a shell: everything but how its commands get there."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pipeline.errors import StageFailed, ToolchainMissing
from targets.transports.common import scripts
from targets.transports.common.base import DroppedError, Fetched, Identity, Job
from targets.transports.common.board import ANSWER_S, Board, T
from targets.transports.common.choice import fitted
from targets.transports.common.line import Line
from targets.transports.common.remote import Folder, RemoteJob

LOOK_S = 10.0
"""Seconds in which a board that is only looked at says what it is."""


class ShellTransport(Board):
    """A benchmark on a board with a shell.

    A subclass says, beside what ``Board`` asks, where bundles lie (``_base``).
    """

    python: str = "python3"
    brings_python: bool = False

    @abstractmethod
    def _base(self, identity: Identity) -> str:
        """Absolute path of the folder on the board in which the bundle gets its own."""

    def _program(self, argv: Sequence[str], folder: str) -> list[str]:
        """The command on the board for a step of a job in a folder there."""
        del folder
        return [self.python, "-u", *argv[1:]] if argv[0] == "python" else list(argv)

    def lock_path(self, identity: Identity) -> str:
        """The lock that all users of the board share."""
        return f"{identity.get('tmp', '/tmp')}/deblur-bench.line"

    def look(self) -> Identity:
        """What the board says it is: see ``Transport.look``. One try: who lists boards does not wait for one that hangs."""
        try:
            self._reached(self._open)
            return self._reached(lambda: self.identity(LOOK_S))
        finally:
            self._close()

    def bench(self, job: Job, salvage: Callable[[Mapping[str, bytes]], None]) -> Fetched:
        """Carry out a job: see ``Transport.bench``."""
        try:
            self._reached(self._open)
            identity = self.steady(self.identity)
            job.check(identity)
            job = fitted(self.name, job, identity, self.say)
            with Line(self, self.lock_path(identity), job.wait_s) as line:
                return self._in_line(job, identity, line, salvage)
        finally:
            self._close()

    def _reached(self, step: Callable[[], T]) -> T:
        """A step that is tried once."""
        try:
            return step()
        except DroppedError as e:
            raise ToolchainMissing(self.name, f"cannot be reached ({e})", "check that the board is on and the address is right") from e

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
            return self.steady(remote.fetch)
        except StageFailed:
            with suppress(StageFailed, ToolchainMissing):
                salvage(self.steady(remote.fetch_what_is_there))
            raise

    def _clean_up(self, job: Job, folder: Folder, remote: RemoteJob) -> None:
        try:
            self.steady(remote.stop)
            self.steady(remote.forget if job.keep else folder.remove)
        except (ToolchainMissing, StageFailed) as e:
            self.say(f"could not clean {folder.path} on {self.name} ({e.what}); the next bench of this bundle takes it up")

    def identity(self, limit_s: float = ANSWER_S) -> Identity:
        """What the board says it is, within so many seconds; "lacks" names python3 or numpy where it has not got them.

        Raises:
            DroppedError: the connection is lost.
            ToolchainMissing: it lacks a tool that a benchmark needs.

        """
        lines = self.checked(scripts.IDENTITY, "" if self.brings_python else self.python, timeout=limit_s).splitlines()
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
