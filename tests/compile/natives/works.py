"""Functions for a process to call."""

from __future__ import annotations

import os
import signal
import sys
import time

from pipeline.errors import UsageError

_calls: list[None] = []


def double(value: int) -> int:
    return 2 * value


def count() -> tuple[int, int]:
    """How often it was called in this process, and the process."""
    _calls.append(None)
    return len(_calls), os.getpid()


def say(text: bytes) -> None:
    sys.stdout.write("python\n")
    os.write(1, text)
    os.write(2, text)


def refuse() -> None:
    raise UsageError("here", "'x' is wrong", "take y")


def fail() -> None:
    raise ValueError("conv 7 has no kernel")


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def sleep() -> None:
    time.sleep(600)
