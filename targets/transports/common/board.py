"""A board that runs POSIX sh, and what every step there builds on: scripts, files, connections that may be lost."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pipeline.errors import StageFailed, ToolchainMissing
from targets.transports.common import scripts
from targets.transports.common.base import BundleFile, DroppedError, Transport
from targets.transports.common.process import Done, run

T = TypeVar("T")

RETRY_WAITS = (1.0, 2.0, 4.0)
"""Seconds before each new try at a lost connection."""

ANSWER_S = 60.0
"""Seconds that a script on the board gets, where no more is said."""

FULL = ("No space left on device", "Disk quota exceeded", "File too large")


class Board(Transport):
    """A way to a board that runs POSIX sh.

    A subclass says how a command gets there (``_command``) and when a failure means that the connection is lost (``_dropped``).
    """

    @abstractmethod
    def _command(self, argv: Sequence[str]) -> list[str]:
        """The local command that runs ``argv`` on the board."""

    @abstractmethod
    def _dropped(self, done: Done) -> str:
        """How the connection was lost, "" when it was not."""

    def _open(self) -> None:
        """Connect; raises DroppedError when the board cannot be reached, ToolchainMissing when trying again is of no use."""

    def _close(self) -> None:
        """Give up the connection."""

    def _put(self, source: Path, folder: str, file: BundleFile, offset: int) -> Done:
        """Send a file from ``offset`` on."""
        parent = os.path.dirname(file.name) or "."  # noqa: PTH120 - a path on the board
        limit = 60 + (file.size - offset) / 20e3
        return self.sh(scripts.WRITE, folder, parent, file.name, str(offset), source=source, offset=offset, timeout=limit)

    def sh(
        self, script: str, *args: str, source: Path | None = None, offset: int = 0, timeout: float = ANSWER_S, until: bytes = b""
    ) -> Done:
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

    def checked(self, script: str, *args: str, timeout: float = ANSWER_S) -> str:
        """The output of a script that must succeed.

        Raises:
            DroppedError: the connection is lost.
            StageFailed: it failed; with the board's own words.

        """
        done = self.sh(script, *args, timeout=timeout)
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
