"""Processes of their own for native compilers and runtimes: a crash there is an answer here, and no two runtimes share a process.

OpenMP, TBB, thread pools and copies of LLVM of different runtimes do not always bear each other. A ``Child`` is spawned, never forked:
it starts with nothing loaded. What native code prints goes to its log.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import PipelineError, StageFailed

PATIENCE = 10.0
"""Seconds that a process whose pipe is broken gets to end before it is killed."""


class ChildDied(StageFailed):
    """A process ended before it answered."""


class Child:
    """A spawned process that calls functions.

    Args:
        name: said in errors.
        log: file that its standard output and error are appended to.

    """

    def __init__(self, name: str, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._name, self._log = name, log
        self._process = context.Process(target=_serve, args=(theirs, str(log)), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, function: Callable[..., Any], *args: Any) -> None:
        """Ask for ``function(*args)``: a function of a module, and arguments that can be pickled; ``receive`` waits for the answer."""
        try:
            self.pipe.send((function, args))
        except (BrokenPipeError, ConnectionResetError) as e:
            raise self._death() from e

    def receive(self) -> Any:
        """The answer to the last ``send``.

        Raises:
            PipelineError: the one that the function raised.
            ChildDied: a signal, or any other exception, whose traceback is in the log.

        """
        try:
            good, value = self.pipe.recv()
        except (EOFError, ConnectionResetError) as e:
            raise self._death() from e
        if good:
            return value
        raise value

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """``send`` and ``receive``."""
        self.send(function, *args)
        return self.receive()

    def close(self) -> None:
        """End the process, busy or not."""
        self.pipe.close()
        self._process.kill()
        self._process.join()

    def _death(self) -> ChildDied:
        self._process.join(PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            what = f"its process was killed by {signal.Signals(-code).name}"
        else:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            what = f"its process ended ({lines[-1] if lines else f'exit code {code}'})"
        return ChildDied(self._name, what, f"look at {self._log}")


class Runtimes:
    """One process for each backend, started when it is first needed, and again after a crash.

    Args:
        logs: folder of their logs.

    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, Child] = {}

    def call(self, use: str, function: Callable[..., Any], *args: Any) -> Any:
        """``function(*args)`` in the process of the backend ``use``; errors as ``Child.receive``."""
        if use not in self._children:
            self._children[use] = Child(use, self._logs / f"{use}.log")
        try:
            return self._children[use].call(function, *args)
        except ChildDied:
            self._children.pop(use).close()
            raise

    def close(self) -> None:
        """End all of them."""
        while self._children:
            self._children.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _serve(pipe: Connection, log: str) -> None:
    """Answer until the pipe is closed. An exception that is no PipelineError ends the process, with its traceback in the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    with Path(log).open("ab") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    faulthandler.enable()
    while True:
        try:
            function, args = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            answer = (True, function(*args))
        except PipelineError as e:
            answer = (False, e)
        sys.stdout.flush()
        pipe.send(answer)
    os._exit(0)  # destructors of native libraries have nothing left to do but crash
