"""The line before a board: one benchmark at a time, whoever asks.

The lock is a folder on the board with the name of its holder, a sign of life that the holder renews, and the process of the
benchmark. A lock is stale when its holder gives no sign of life and its benchmark does not run any more.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pipeline.errors import PipelineError, ToolchainMissing
from targets.transports.common import scripts
from targets.transports.common.base import DroppedError
from targets.transports.common.board import Board

BEAT_S = 10.0
"""Seconds between signs of life."""

STALE_S = 60
"""Seconds without a sign of life after which a lock is stale."""

ASK_S = 2.0
"""Seconds between two looks at a lock that another holds."""


class Line:
    """Holds the board's lock inside ``with``; waits for it on entering.

    Args:
        board: where the lock is.
        path: the lock's folder there.
        wait_s: seconds to wait at most.

    """

    def __init__(self, board: Board, path: str, wait_s: float) -> None:
        self.board, self.path, self.wait_s = board, path, wait_s
        self.token, self.owner = uuid.uuid4().hex, _owner()
        self._left = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        deadline, told = time.monotonic() + self.wait_s, ""
        while (held := self.board.steady(self._ask)) is not None:
            if held != told:
                self.board.say(f"waiting in line: {held} uses the board")
                told = held
            if time.monotonic() > deadline:
                hint = "try again later, or wait longer with --wait SECONDS"
                raise ToolchainMissing(self.board.name, f"is still in use by {held} after {self.wait_s:g} s", hint)
            time.sleep(ASK_S)
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._left.set()
        self._heart.join()
        try:
            self.board.steady(lambda: self.board.checked(scripts.CLEAN, "", "", self.path, self.token))
        except PipelineError as e:
            self.board.say(f"could not give up the lock {self.path} on {self.board.name} ({e.what}); it expires after {STALE_S} s")

    def _ask(self) -> str | None:
        """Who holds the lock; None when it is ours now."""
        answer = self.board.checked(scripts.LOCK, self.path, self.token, self.owner, str(STALE_S)).strip()
        word, _, rest = answer.partition(" ")
        age, _, who = rest.partition(" ")
        if word in {"taken", "stale"}:
            if word == "stale":
                self.board.say(f"took over a stale lock of {who or 'somebody'}: no sign of life for {age} s")
            return None
        if word == "held":
            return who or "somebody"
        if word == "stuck":
            what = f"a stale lock of {who or 'somebody'} (no sign of life for {age} s) belongs to another account"
            raise ToolchainMissing(self.board.name, what, f"remove {self.path} on the board as its owner")
        raise ToolchainMissing(self.board.name, f"the lock {self.path} cannot be made", "let everybody write to the folder that holds it")

    def _beat(self) -> None:
        while not self._left.wait(BEAT_S):
            if _quietly(lambda: self.board.checked(scripts.BEAT, self.path, self.token).strip()) == "lost":
                self.board.say(f"another user took over the lock {self.path}: this benchmark may be disturbed")
                return


def _quietly(step: Callable[[], str]) -> str:
    """A sign of life that gets lost is no error of its own: the step that runs meanwhile finds the connection lost too."""
    try:
        return step()
    except (DroppedError, PipelineError):
        return ""


def _owner() -> str:
    user = os.environ.get("USER") or os.environ.get("LOGNAME") or "somebody"
    return f"{user}@{socket.gethostname()} pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
