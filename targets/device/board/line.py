"""One benchmark at a time on a board: the others wait in line."""

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Optional

from board.basics import DeviceError


class Line:
    """Holds the board inside ``with``. The lock goes with the process: a killed benchmark blocks nobody.

    seconds  longest wait
    path     the lock file; any user may wait on one that another has made
    """

    def __init__(self, seconds: float, path: Optional[Path] = None) -> None:
        self.seconds, self.handle = seconds, -1
        self.path = path or Path(tempfile.gettempdir(), "deblur-bench.lock")

    def __enter__(self) -> "Line":
        self.handle = self._open()
        start, said = time.monotonic(), False
        while not self._try():
            if not said:
                sys.stderr.write("another benchmark runs on this board: waiting\n")
                said = True
            if time.monotonic() - start > self.seconds:
                os.close(self.handle)
                raise DeviceError(f"another benchmark has held this board for {self.seconds:g} s: try later, or give --wait")
            time.sleep(0.1)
        return self

    def __exit__(self, *rest: Any) -> None:
        os.close(self.handle)

    def _open(self) -> int:
        try:
            return os.open(str(self.path), os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return os.open(str(self.path), os.O_RDONLY)
        except OSError as e:
            raise DeviceError(f"{self.path} cannot be made ({e.strerror}): set TMPDIR to a folder that can be written") from None

    def _try(self) -> bool:
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
