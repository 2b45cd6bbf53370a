"""The native runner that goes into a bundle beside TVM's artifacts: C, no Python and no TVM on the board.

One static program for Linux and Android alike: it brings its C library (musl) and loads the artifact itself, because a static program
has no loader of shared libraries and Android's C library is not here to build for.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StageFailed, ToolchainMissing

LINKED = {"musl (in the native runner)": "MIT"}
"""Licences of what is linked into the program beside our own sources."""

NOTICE = "runner/COPYRIGHT.musl"
"""Where a bundle has musl's copyright, which goes wherever the program goes."""

SOURCES = tuple(sorted(p.name for p in Path(__file__).parent.glob("*.c")))


def write_runner(facts: Mapping[str, Any], folder: Path) -> str:
    """Build the runner for an artifact of this backend.

    Args:
        facts: of the artifact; ``mtriple`` decides.
        folder: the bundle's; the program goes to ``runner/<machine>/``.

    Returns:
        Its path relative to the folder; the same program runs artifacts for Linux and for Android.

    Raises:
        StageFailed: the compiler refuses.
        ToolchainMissing: it is not installed.

    """
    machine = str(facts["mtriple"]).partition("-")[0]
    relative = f"runner/{machine}/deblur-runner"
    out = folder / relative
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        build_runner(out, machine)
        shutil.copyfile(_compiler() / "lib" / "libc" / "musl" / "COPYRIGHT", folder / NOTICE)
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
    flags = ["-target", f"{machine}-linux-musl", "-static", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-s"]
    sources = [str(here / name) for name in SOURCES]
    command = [sys.executable, "-m", "ziglang", "cc", *flags, "-o", str(out), *sources, "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageFailed("compile.tvm", f"the native runner was not built: {done.stderr.strip()[-400:]}", 'pip install -e ".[tvm]"')


def _compiler() -> Path:
    """Folder of the ``ziglang`` wheel."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ToolchainMissing("compile.tvm", "the compiler of the native runner is not installed", 'pip install -e ".[tvm]"')
    return Path(spec.origin).parent
