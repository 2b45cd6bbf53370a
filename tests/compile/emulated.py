"""Kernels of another CPU alone under user-mode emulation."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.tvm import alone
from compile.tvm.cpu import target_of


def target(mcpu: str, *features: str) -> Any:
    return target_of({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": mcpu, "mattr": ["+neon", *features]})


def program(function: Any, built_for: Any, folder: Path) -> Path:
    """A static program for aarch64 that calls one TIR function."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    return alone.program(function, built_for, folder)


def call(path: Path, mcpu: str, arrays: Sequence[np.ndarray], repeat: int = 1, plugin: Sequence[str] = ()) -> np.ndarray:
    """What the last array holds afterwards."""
    argv = ["qemu-aarch64", "-cpu", mcpu, *plugin, *alone.command(path, arrays, repeat)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return alone.result_of(path, arrays)
