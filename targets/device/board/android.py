"""What Android says of its temperature and its processors."""

import re
from typing import Dict, List

from board.basics import Json, answer

STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Thermal status 0 to 6 (android.os.PowerManager, THERMAL_STATUS_*)."""

_STATUS = re.compile(r"Thermal Status:\s*(\d)")
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?\d+(?:\.\d+)?), mType=(-?\d+), mName=([^,}]+)(?:, mStatus=(\d))?")
_HAL = re.compile(r"Current temperatures from HAL:(.*?)(?:Current cooling|Temperature static|$)", re.DOTALL)


def parse_thermal(text: str) -> Json:
    """Of ``dumpsys thermalservice``: {"status": "none"..., "celsius": {sensor: degrees}, "throttling": [sensors that are]}.

    Where the dump has both cached and current readings, the current ones count. {} when the text is no such dump.
    """
    status = _STATUS.search(text)
    if not status:
        return {}
    current = _HAL.search(text)
    rows = _TEMPERATURE.findall(current.group(1) if current else text)
    celsius = {name: float(value) for value, _, name, _ in rows}
    hot = sorted({name for _, _, name, level in rows if level not in ("", "0")})
    return {"status": STATUS[min(int(status.group(1)), len(STATUS) - 1)], "celsius": celsius, "throttling": hot}


def parse_cpu_list(text: str) -> List[int]:
    """Cores of a list such as "0-3,6" (/sys/devices/system/cpu/online)."""
    found: List[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit():
            found += range(int(first), int(last if last.isdigit() else first) + 1)
    return found


def parse_load(text: str) -> Dict[str, float]:
    """Of ``dumpsys cpuinfo``: load averages {"1min", "5min", "15min"} and the share in per cent that all processes take; {} for others."""
    load = re.search(r"Load: ([\d.]+) / ([\d.]+) / ([\d.]+)", text)
    total = re.search(r"^\s*([\d.]+)% TOTAL", text, re.MULTILINE)
    found = {name: float(load.group(k)) for k, name in enumerate(("1min", "5min", "15min"), 1)} if load else {}
    return {**found, **({"total_percent": float(total.group(1))} if total else {})}


def thermal() -> Json:
    """Thermal state of this device; {} where it is no Android."""
    return parse_thermal(answer("dumpsys", "thermalservice"))
