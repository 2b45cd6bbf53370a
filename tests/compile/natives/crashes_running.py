"""ONNX Runtime that crashes on the second run of an fp32 artifact in a process, and is itself in int8."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compile.onnxruntime.backend import OnnxRuntimeBackend, OnnxSession
from eval.session import BuildRequest, Built, Session


class CrashingSession(OnnxSession):
    _runs = 0

    def _run(self, lq: np.ndarray) -> np.ndarray:
        self._runs += 1
        if self._runs > 1:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._run(lq)


class CrashesRunning(OnnxRuntimeBackend):
    name: ClassVar[str] = "crashes_running"

    def _build(self, request: BuildRequest) -> Built:
        built = super()._build(request)
        return Built(built.path, {**built.facts, "backend": __name__})

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        return (CrashingSession if facts["precision"] == "fp32" else OnnxSession)(path, threads)


BACKEND = CrashesRunning()
