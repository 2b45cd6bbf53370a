"""A runtime that waits: time passes, and no work is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compile.null.backend import NullBackend
from eval.session import Session


class Sleeping(Session):
    def _run(self, lq: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return lq


class Sleeps(NullBackend):
    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        return Sleeping()


BACKEND = Sleeps()
