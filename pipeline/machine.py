"""What this machine is: the facts that make a timing reproducible, and a fingerprint of them for cache keys."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cpu_model() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of this machine's CPU as Linux names them, e.g. avx512_vnni or asimddp; empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith(("flags", "Features"))), ()))


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts() -> dict[str, str | int]:
    """Processor, cores, architecture, system and Python of this machine; no host name, nothing personal."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "arch": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
