"""A compiler that says a word and crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from eval.session import Backend, BuildRequest, Built, Session


class Crashes(Backend):
    name: ClassVar[str] = "crashes_building"

    def missing(self) -> str:
        return ""

    def _build(self, request: BuildRequest) -> Built:
        os.write(1, b"about to lower conv 7\n")
        os.kill(os.getpid(), signal.SIGSEGV)
        raise RuntimeError

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        raise RuntimeError


BACKEND = Crashes()
