"""Linking objects into a shared library for Linux or Android without a system compiler: the linker of the ``ziglang`` wheel.

The library needs nothing but memcpy and the like from libc, and TVM's own symbols, which the process that loads it holds. Empty
stand-ins with the right names are enough to record that it needs libc and libm; no version of them is bound.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.errors import StageFailed

SONAMES = {"gnu": ("libc.so.6", "libm.so.6"), "android": ("libc.so", "libm.so")}


def link_shared(out: Path, objects: list[str], arch: str, system: str) -> None:
    """Link object files.

    Args:
        out: the .so to write.
        objects: paths of ELF object files for ``arch``.
        arch: e.g. "aarch64" or "x86_64".
        system: "gnu" or "android".

    Raises:
        StageFailed: unknown system, or the linker refuses.

    """
    if system not in SONAMES:
        raise StageFailed("compile.tvm", f"cannot link for '{system}'", f"the target's cpu.triple must end in one of: {', '.join(SONAMES)}")
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        (folder / "empty.c").write_text("")
        empty = str(folder / "empty.o")
        _zig("cc", "-c", "-target", f"{arch}-linux-none", "-o", empty, str(folder / "empty.c"))
        stubs = [str(folder / name) for name in SONAMES[system]]
        for stub in stubs:
            _zig("ld.lld", "-shared", "-soname", Path(stub).name, "-o", stub, empty)
        _zig("ld.lld", "-shared", "--no-as-needed", "--strip-debug", "-o", str(out), *objects, *stubs)


def _zig(*args: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ziglang", *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageFailed("compile.tvm", f"linking failed: {done.stderr.strip()[-400:]}", 'pip install -e ".[tvm]" brings the linker')
