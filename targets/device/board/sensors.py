"""The state of a board before and after a measurement: power mode, clocks, temperatures, throttling, power; read, never changed here."""

import re
import resource
import threading
from pathlib import Path
from typing import Any, Dict, List

from board import android
from board.basics import Json, answer, read_text
from board.identity import ROOT

PI_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of ``vcgencmd get_throttled`` that hold now; the same 16 higher: has happened since the start (Raspberry Pi documentation)."""


def number(path: Path) -> Any:
    """Integer in a file, None when there is none."""
    text = read_text(path)
    return int(text) if text.lstrip("-").isdigit() else None


def temperatures(root: Path = ROOT) -> Dict[str, float]:
    """Degrees Celsius by thermal zone; sensors that are off are left out."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = number(zone / "temp")
        if value is not None and value > -200000:
            found[f"{zone.name} {read_text(zone / 'type')}"] = value / 1000
    return found


def clocks(root: Path = ROOT) -> Json:
    """Governor and frequencies in kHz of each group of cores, and in Hz of the GPU and memory where the system shows them."""
    found: Json = {}
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        rows = {key: number(policy / f"scaling_{key}_freq") for key in ("cur", "min", "max")}
        found[policy.name] = {"governor": read_text(policy / "scaling_governor"), "cpus": read_text(policy / "related_cpus"), **rows}
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        rows = {key: number(device / f"{key}_freq") for key in ("cur", "min", "max")}
        found[device.name] = {"governor": read_text(device / "governor"), **rows}
    emc = number(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")
    found.update({"emc": {"cur": emc}} if emc else {})
    locked = answer("jetson_clocks", "--show")
    found.update({"jetson_clocks": locked.splitlines()} if locked else {})
    online = android.parse_cpu_list(read_text(root / "sys/devices/system/cpu/online"))
    found.update({"online": online} if online else {})
    return found


def parse_power_mode(text: str) -> Json:
    """Of ``nvpmodel -q``: {"name": "MAXN", "id": 0}; {} when the text is none of its."""
    name = re.search(r"NV Power Mode:\s*(\S+)", text)
    if not name:
        return {}
    ids = [line.strip() for line in text[name.end() :].splitlines() if line.strip().isdigit()]
    return {"name": name.group(1), "id": int(ids[0]) if ids else None}


def power_mode() -> Json:
    """The Jetson's power mode; {} on other boards."""
    return parse_power_mode(answer("nvpmodel", "-q"))


def parse_throttled(text: str) -> int:
    """Bits of ``vcgencmd get_throttled`` ("throttled=0x50005"); 0 when it says nothing."""
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", text)
    return int(found.group(1), 16) if found else 0


def pi_reasons(before: int, after: int) -> List[str]:
    """What held a Raspberry Pi back between two readings: what holds now, and what has happened anew."""
    return [name for bit, name in PI_NOW.items() if after >> bit & 1 or (after >> bit + 16 & 1 and not before >> bit + 16 & 1)]


def hot_zones(root: Path = ROOT) -> List[str]:
    """Thermal zones at or above a trip point at which the system slows down ("passive") or switches off."""
    found = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        now = number(zone / "temp")
        for kind in sorted(zone.glob("trip_point_*_type")):
            trip = number(zone / kind.name.replace("_type", "_temp"))
            if read_text(kind) in ("passive", "hot", "critical") and trip and trip > 0 and now is not None and now >= trip:
                found.append(f"{read_text(zone / 'type')} at {now / 1000:.0f} C, it slows down from {trip / 1000:.0f} C")
                break
    return found


def over_current(root: Path = ROOT) -> int:
    """How often the board's over-current protection has stepped in since the start (Jetson, L4T 36)."""
    return sum(number(p) or 0 for p in (root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))


class State:
    """A reading of everything that may hold a board back."""

    def __init__(self, root: Path = ROOT) -> None:
        self.temperatures, self.clocks = temperatures(root), clocks(root)
        self.hot, self.over_current = hot_zones(root), over_current(root)
        self.pi = parse_throttled(answer("vcgencmd", "get_throttled"))
        self.android = android.thermal()
        self.temperatures.update(self.android.get("celsius", {}))


def throttling(before: State, after: State) -> List[str]:
    """Why the second reading says that the board was held back since the first; [] when it was not."""
    found = list(after.hot) + [f"Raspberry Pi: {r}" for r in pi_reasons(before.pi, after.pi)]
    if after.over_current > before.over_current:
        found.append("the over-current protection stepped in")
    if after.android.get("status", "none") != "none":
        found.append(f"Android's thermal status is {after.android['status']} ({', '.join(after.android['throttling'])})")
    for name, was in before.clocks.items():
        now = after.clocks.get(name)
        if isinstance(was, dict) and isinstance(now, dict) and (now.get("max") or 0) < (was.get("max") or 0):
            found.append(f"{name}: the highest clock fell from {was['max']} to {now['max']}")
    return found


def rails_mw(root: Path = ROOT) -> Dict[str, float]:
    """Power in mW by rail from INA3221 sensors: as hwmon (mV and mA), or as the older iio driver gives it (mW)."""
    found: Dict[str, float] = {}
    for folder in sorted((root / "sys/bus/i2c/drivers/ina3221").glob("*/hwmon/hwmon*")):
        for k in range(1, 4):
            volts, amperes = number(folder / f"in{k}_input"), number(folder / f"curr{k}_input")
            if volts is not None and amperes is not None:
                found[read_text(folder / f"in{k}_label") or f"{folder.name}.{k}"] = volts * amperes / 1000
    for folder in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio*device*")):
        for k in range(3):
            power = number(folder / f"in_power{k}_input")
            if power is not None:
                found[read_text(folder / f"rail_name_{k}") or f"{folder.name}.{k}"] = float(power)
    return found


class RailSampler:
    """Reads the power rails beside a measurement, five times a second: use it with ``with``, then read ``samples``."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root, self.samples, self._stop = root, [], threading.Event()  # type: Path, List[Dict[str, float]], threading.Event
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self._stop.wait(0.2):
            self.samples.append(rails_mw(self.root))

    def __enter__(self) -> "RailSampler":
        if rails_mw(self.root):
            self._thread.start()
        return self

    def __exit__(self, *rest: Any) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()


def peak_rss_mb(process: int = 0) -> float:
    """Most memory in MB that this process has held, or the one of that number; 0 where the system does not tell."""
    found = re.search(r"VmHWM:\s*(\d+) kB", read_text(Path("/proc", str(process or "self"), "status")))
    if found:
        return int(found.group(1)) * 1024 / 1e6
    return 0.0 if process else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
