"""The versions of TVM that work together; others crash in ways that say nothing, so they are refused before anything is built."""

from __future__ import annotations

import importlib.metadata

TVM, FFI = ("0.26.",), {"0.26.": "0.1.13.post3"}
"""Versions of apache-tvm by their beginning, and the apache-tvm-ffi that each needs: newer ones, which pip picks by itself, crash it."""


def misfit() -> str:
    """The command that mends the installed versions; empty when they fit or TVM is not installed at all."""
    try:
        tvm, ffi = (importlib.metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi"))
    except importlib.metadata.PackageNotFoundError:
        return ""
    return _mend(tvm, ffi)


def _mend(tvm: str, ffi: str) -> str:
    line = next((start for start in TVM if tvm.startswith(start)), None)
    if line is not None and FFI[line] == ffi:
        return ""
    start = line or TVM[-1]
    return f'pip install "apache-tvm=={start}*" "apache-tvm-ffi=={FFI[start]}" (found {tvm} and {ffi}, which do not fit)'
