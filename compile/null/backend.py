"""The null backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class NullBackend(Backend):
    """Builds a file that says what it is; no parity check takes it for the network."""

    name: ClassVar[str] = "null"

    def missing(self) -> str:
        """Nothing ever is."""
        return ""

    def _build(self, request: BuildRequest) -> Built:
        if request.precision != "fp32":
            raise StageFailed("compile.null", f"has no {request.precision}", "it has: fp32")
        out = request.workdir / "null-fp32.txt"
        out.write_text("The identity: times the harness, restores nothing.\n", encoding="utf-8")
        facts = {"backend": "compile.null", "precision": "fp32", "height": 0, "width": 0}
        return Built(out, {**facts, "runs_here": True, "source": "float", "float_precision": "fp32"})

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        return Identity()


class Identity(Session):
    """Takes any size and returns its input."""

    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        return lq
