"""The CPU of this machine, as TVM names it, and what it cannot run."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

_X86 = (
    "sse4.2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512vnni",
    "avx512vbmi",
    "avxvnni",
    "avx512bf16",
    "avx512fp16",
)
_ARM = ("dotprod", "fullfp16", "i8mm", "sve", "sve2")


def host_dict() -> dict[str, Any]:
    """The TVM target of this machine's CPU."""
    return {"kind": "llvm", "mtriple": f"{platform.machine()}-linux-gnu", "mcpu": _host_cpu(), "mattr": []}


def lacking(facts: Mapping[str, Any]) -> list[str]:
    """Instruction sets that a build for ``facts["mcpu"]`` may use and this CPU has not."""
    import tvm
    from tvm.target.codegen import llvm_cpu_has_features

    built, here = (tvm.target.Target({"kind": "llvm", "mcpu": cpu}) for cpu in (str(facts["mcpu"]), _host_cpu()))
    names = _X86 if platform.machine() == "x86_64" else _ARM
    return [n for n in names if llvm_cpu_has_features(n, built) and not llvm_cpu_has_features(n, here)]


def _host_cpu() -> str:
    from tvm.target.codegen import llvm_get_system_cpu

    return str(llvm_get_system_cpu())
