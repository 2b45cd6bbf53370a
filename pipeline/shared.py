"""Folders that outlive the stage that made them: what can be computed anew, named after everything that decides it.

::

    <root>/<name>/      the content
    <root>/<name>.use   held by every process that fills or reads it; its time is that of the last use

Nothing names such a folder but whoever needs the same again. It goes when room is needed, the least recently used first, or when no kept
run can have used it (``pipeline.collect``); never while it is held. A ``.use`` file is never removed: others may wait on it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

from pipeline.store import size_of


def hold(folder: Path) -> IO[str]:
    """Make ``folder`` where it is not there, and hold it until the returned file is closed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = _use(folder).open("a")
    fcntl.flock(file, fcntl.LOCK_SH)
    os.utime(file.fileno())
    folder.mkdir(exist_ok=True)
    return file


def last_used(folder: Path) -> float:
    """When ``folder`` was last held, in seconds since 1970."""
    use = _use(folder)
    return (use if use.exists() else folder).stat().st_mtime


def drop(folder: Path) -> int:
    """Remove ``folder`` unless some process holds it. Returns the bytes that were freed."""
    with _use(folder).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        size = size_of(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return size


def make_room(folder: Path, needed: float, limit: float) -> None:
    """Drop the folders beside ``folder``, the least recently used first, until they and ``needed`` bytes are ``limit`` or less."""
    others = sorted((p for p in folder.parent.iterdir() if p.is_dir() and p != folder), key=last_used)
    size = needed + sum(size_of(p) for p in others)
    for other in others:
        if size <= limit:
            return
        size -= drop(other)


def _use(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.use")
