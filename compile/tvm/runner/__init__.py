"""The native runner that goes into a bundle beside TVM's artifacts: C, no Python and no TVM on the board."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed

GLIBC = "2.31"
"""The oldest C library that the runner starts on: JetPack 5 and Debian 11."""

SOURCES = ("main.c", "tiles.c", "files.c", "vm.c", "bytecode.c", "support.c")


def write_runner(facts: Mapping[str, Any], folder: Path) -> str:
    """Build the runner for an artifact of this backend.

    Args:
        facts: of the artifact; ``mtriple`` decides.
        folder: the bundle's; the program goes to ``runner/<machine>/``.

    Returns:
        Its path relative to the folder; empty for Android, whose C library the compiler has not: there TVM's own runtime runs it.

    Raises:
        StageFailed: the compiler refuses.

    """
    parts = str(facts["mtriple"]).split("-")
    if parts[-1] != "gnu":
        return ""
    relative = f"runner/{parts[0]}/deblur-runner"
    out = folder / relative
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        build_runner(out, parts[0])
    return relative


def build_runner(out: Path, machine: str) -> None:
    """Compile the runner with the compiler of the ``ziglang`` wheel; the same sources give the same bytes.

    Args:
        out: the program to write.
        machine: e.g. "aarch64" or "x86_64".

    Raises:
        StageFailed: the compiler refuses.

    """
    here = Path(__file__).parent
    flags = ["-target", f"{machine}-linux-gnu.{GLIBC}", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-s", "-rdynamic"]
    sources = [str(here / name) for name in SOURCES]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, "-o", str(out), *sources, "-lm", "-lpthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageFailed("compile.tvm", f"the native runner was not built: {done.stderr.strip()[-400:]}", 'pip install -e ".[tvm]"')
