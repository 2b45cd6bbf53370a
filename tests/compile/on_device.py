"""Running a bundle's scripts as on a device: a copy of the folder, and a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


def runs_in(folder: Path) -> Bench:
    """A function that runs ``script`` of a bundle with some arguments and further variables of the environment."""

    def run(*args: object, script: str = "bench.py", **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(folder / script), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, cwd="/")

    return run
