"""tegrastats of JetPack 4 to 6: temperatures, loads, clocks and rails of a Jetson.

A line's fields come and go with the board and the release: ``GR3D_FREQ 39%``, ``0%@0`` or ``15%@[305,305]`` (Orin), a date in front from
L4T 35 on, rails with or without ``mW``, ``-256C`` for a sensor that is off.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from board.basics import Json, read_text

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_SWAP = re.compile(r"\bSWAP (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_ENGINE = re.compile(r"\b(EMC_FREQ|GR3D_FREQ) (\d+)%(?:@\[?([\d,]+)\]?)?")
_TEMPERATURE = re.compile(r"\b(\w[\w-]*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?= |$)")
_WHOLE = ("VDD_IN", "POM_5V_IN", "VDDIN")
"""Rails that feed the whole module (Nano: POM_5V_IN; Xavier NX, Orin NX and Nano: VDD_IN); on the AGX boards it is the sum of all."""


def parse_line(line: str) -> Json:
    """What one line says: ram_mb, swap_mb, cpu ([{"load", "mhz"} or None for a core that is off]), emc, gpu, celsius, rails_mw."""
    found: Json = {"celsius": _temperatures(line), "rails_mw": {k: int(v) for k, v, _ in _RAIL.findall(line)}}
    for key, pattern in (("ram_mb", _RAM), ("swap_mb", _SWAP)):
        match = pattern.search(line)
        if match:
            found[key] = int(match.group(1))
    cores = _CPU.search(line)
    if cores:
        found["cpu"] = [_core(c) for c in cores.group(1).split(",")]
    for name, load, clocks in _ENGINE.findall(line):
        found["gpu" if name == "GR3D_FREQ" else "emc"] = {"load": int(load), "mhz": [int(c) for c in clocks.split(",") if c] or None}
    return found


def parse(text: str) -> List[Json]:
    """The lines of a log that are tegrastats'."""
    return [parse_line(line) for line in text.splitlines() if _RAM.search(line)]


def total_mw(rails: Dict[str, int]) -> float:
    """Power of the module in mW: the rail that feeds it where there is one, else the sum of what is measured."""
    whole = [v for k, v in rails.items() if k in _WHOLE]
    return float(whole[0] if whole else sum(rails.values()))


def mean_rails(lines: List[Json]) -> Dict[str, float]:
    """Mean power in mW by rail, with "total"; {} when no rail was seen."""
    seen = [line["rails_mw"] for line in lines if line["rails_mw"]]
    if not seen:
        return {}
    means = {k: sum(r.get(k, 0) for r in seen) / len(seen) for k in seen[0]}
    means["total"] = sum(total_mw(r) for r in seen) / len(seen)
    return means


def _temperatures(line: str) -> Dict[str, float]:
    return {name: float(value) for name, value in _TEMPERATURE.findall(line) if float(value) > -200}


def _core(text: str) -> Any:
    match = re.match(r"(\d+)%@(\d+)", text.strip())
    return {"load": int(match.group(1)), "mhz": int(match.group(2))} if match else None


class Recorder:
    """tegrastats beside a measurement: use it with ``with``, then read ``lines``; [] where there is no tegrastats."""

    def __init__(self, interval_ms: int = 100) -> None:
        self.interval, self.lines = interval_ms, []  # type: int, List[Json]
        self._process: Any = None
        self._log: Any = None

    def __enter__(self) -> "Recorder":
        binary = shutil.which("tegrastats")
        if binary:
            self._log = tempfile.NamedTemporaryFile(prefix="tegrastats.")
            command = [binary, "--interval", str(self.interval)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *rest: Any) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self.lines = parse(read_text(Path(self._log.name)))
            self._log.close()
