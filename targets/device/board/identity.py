"""Which board this is, and whether it is the one that the bundle was made for."""

import os
import platform
import re
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from board.basics import DeviceError, Json, answer, read_text

ROOT = Path("/")
JETPACK = {
    "32.6": "4.6",
    "32.7": "4.6.1-4.6.5",
    "35.1": "5.0.2",
    "35.2": "5.1",
    "35.3": "5.1.1",
    "35.4": "5.1.2",
    "36.3": "6.0",
    "36.4": "6.1-6.2",
}
"""JetPack by the first two numbers of L4T (dusty-nv/jetson-containers, l4t_version.py; rbonghi/jetson_stats, jetson_variables.py)."""

CUDA = {"tegra210": "5.3", "tegra186": "6.2", "tegra194": "7.2", "tegra234": "8.7"}
"""Compute capability of the GPU by the chip in /proc/device-tree/compatible (NVIDIA's device trees; CUDA's list of GPUs)."""

_PROPERTIES = {"ro.product.model": "model", "ro.soc.model": "soc", "ro.build.version.release": "android", "ro.product.cpu.abi": "abi"}


def parse_l4t(text: str) -> str:
    """L4T as "R35.2.1" of the first line of /etc/nv_tegra_release ("# R35 (release), REVISION: 2.1, GCID: ..."); empty for another text."""
    found = re.match(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return "R{}.{}".format(*found.groups()) if found else ""


def jetpack_of(l4t: str) -> str:
    """JetPack's version for "R35.2.1", empty when it is not known."""
    return JETPACK.get(".".join(l4t[1:].split(".")[:2]), "")


def parse_cpuinfo(text: str) -> Dict[str, Any]:
    """Of /proc/cpuinfo: the CPU's name or ARM part number, and what it can do (ARM's "Features", or x86's "flags" for vectors)."""
    rows: Dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        rows.setdefault(key.strip(), value.strip())
    name = rows.get("model name") or rows.get("Hardware") or rows.get("CPU part", "")
    flags = rows.get("Features") or " ".join(f for f in rows.get("flags", "").split() if f.startswith(("avx", "sse4", "amx", "fma")))
    return {"cpu": name, "features": sorted(set(flags.split()))}


def device_facts(root: Path = ROOT) -> Json:
    """What decides a timing on this machine. Empty values are left out."""
    l4t = parse_l4t(read_text(root / "etc/nv_tegra_release"))
    facts = {
        "hostname": platform.node(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "glibc": _glibc(),
        "model": read_text(root / "proc/device-tree/model"),
        "compatible": read_text(root / "proc/device-tree/compatible").replace("\0", " "),
        "l4t": l4t,
        "jetpack": jetpack_of(l4t),
    }
    facts.update(parse_cpuinfo(read_text(root / "proc/cpuinfo")))
    facts["cuda"] = next((v for chip, v in CUDA.items() if chip in facts["compatible"]), "")
    facts.update({k: v for k, v in ((k, answer("getprop", p)) for p, k in _PROPERTIES.items()) if v})
    return {k: v for k, v in facts.items() if v}


def _glibc() -> str:
    """Version of the C library, empty where it is another one (Android, musl)."""
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").replace("glibc", "").strip()
    except (ValueError, OSError):
        return ""


def mismatches(recognise: Json, facts: Json) -> List[str]:
    """What about this machine is not as the bundle's target is recognised, in words; [] when it is that board.

    Each entry is a regular expression that the fact of the same name must contain; an empty one asks nothing, and a fact that this
    machine has not counts as different. "cpu_flags" lists what must be among the CPU's features, "android" holds an expression for each
    property. "cuda" is asked only where the chip is known.
    """
    found = []
    for key, want in sorted(recognise.items()):
        if key == "cpu_flags":
            lacking = [w for w in want if w not in facts.get("features", [])]
            found += [f"its CPU lacks {', '.join(lacking)}"] if lacking else []
        elif key == "android":
            found += [
                _unlike(name, pattern, facts.get(_PROPERTIES.get(name, "")) or answer("getprop", name)) for name, pattern in want.items()
            ]
        elif want and (key != "cuda" or facts.get("cuda")):
            found.append(_unlike(key, want, facts.get(key, "")))
    return [words for words in found if words]


def _unlike(name: str, pattern: str, have: Any) -> str:
    if re.search(pattern, str(have or "")):
        return ""
    return f"its {name} is '{have or 'unknown'}', not like '{pattern}'"


def check_board(bundle: Json, artifact: Json, facts: Json, force: bool) -> str:
    """Refuse a board that the artifact was not made for.

    Returns:
        "recognised", "forced", or "unknown" where the bundle does not say how to know its board, or the artifact is for the machine that
        made the bundle.

    Raises:
        DeviceError: another board, and ``force`` is not given.

    """
    recognise = bundle.get("recognise") or {}
    if not recognise or artifact.get("role") == "host":
        return "unknown"
    wrong = mismatches(recognise, facts)
    if wrong and not force:
        what = "this bundle is for {} ({}), and this is another board: {}; make a bundle for this one, or give --force-board"
        raise DeviceError(what.format(bundle["title"], bundle["target"], "; ".join(wrong)))
    return "forced" if wrong else "recognised"
