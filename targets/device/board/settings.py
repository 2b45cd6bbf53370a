"""--set-clocks: lock the board's clocks for a measurement and give them back afterwards, whatever ends it."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from board.basics import DeviceError, call, read_text
from board.identity import ROOT


class LockedClocks:
    """Highest clocks inside ``with``: jetson_clocks on a Jetson, the governor "performance" elsewhere.

    root  of the file system
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root, self.governors = root, []  # type: Path, List[Tuple[Path, str]]
        self.store = Path(tempfile.gettempdir(), f"clocks-before.{os.getpid()}")
        self.jetson = shutil.which("jetson_clocks") is not None

    def __enter__(self) -> "LockedClocks":
        if self.jetson:
            self._jetson("--store", str(self.store))
            self._jetson()
            return self
        policies = sorted((self.root / "sys/devices/system/cpu/cpufreq").glob("policy*/scaling_governor"))
        if not policies:
            raise DeviceError("--set-clocks: this machine has no jetson_clocks, and its kernel shows no governor to set")
        try:
            for path in policies:
                before = read_text(path)
                path.write_text("performance")
                self.governors.append((path, before))
        except OSError as e:
            self._restore()
            raise DeviceError(f"--set-clocks may not change the governor ({e.strerror}): run it as root (sudo)") from None
        return self

    def __exit__(self, *rest: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        if self.jetson:
            self._jetson("--restore", str(self.store))
        for path, before in self.governors:
            path.write_text(before)
        self.governors = []

    def _jetson(self, *flags: str) -> None:
        status, text = call("jetson_clocks", *flags)
        if status:
            raise DeviceError(f"--set-clocks: jetson_clocks {' '.join(flags)} failed ({text[-200:]}): run it as root (sudo)")


class PowerMode:
    """A Jetson's power mode inside ``with``; the one before is set again afterwards. ``number`` -1 leaves it alone.

    number  of the mode, as nvpmodel counts
    before  number of the mode that is set now, None when it is not known
    """

    def __init__(self, number: int, before: Any) -> None:
        self.number, self.before = number, before

    def __enter__(self) -> "PowerMode":
        if self.number >= 0:
            if self.before is None:
                raise DeviceError("--power-mode: this board has no nvpmodel that tells its mode")
            self._set(self.number)
        return self

    def __exit__(self, *rest: Any) -> None:
        if self.number >= 0:
            self._set(self.before)

    def _set(self, mode: int) -> None:
        status, text = call("nvpmodel", "-m", str(mode))
        if status:
            raise DeviceError(f"--power-mode: nvpmodel -m {mode} failed ({text[-200:]}): run it as root; some modes need a restart")
