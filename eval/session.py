"""Backends and sessions: how an artifact is opened and run, whatever compiled it.

An engine artifact carries ``facts["backend"]``, the import path of a module that exports ``BACKEND``; ``open_session`` finds it
there, so that whoever measures never imports a compiler by name.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from pipeline.errors import StageFailed, ToolchainMissing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.target import BackendChoice, Target


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to compile.

    model      folder written by ``quantize.artifact`` (float and Q/DQ ONNX flavours)
    precision  "fp32", "fp16" or "int8"
    height, width  the fixed size of the input in pixels, multiples of the network's size multiple
    target     the device to build for
    workdir    where the artifact is written
    for_host   build for this machine instead of the target's CPU
    options    the backend's own options from the target file
    """

    model: Path
    precision: str
    height: int
    width: int
    target: Target
    workdir: Path
    for_host: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Built:
    """A built engine: the file that runs and small JSON about it (backend, precision, height, width, runs_here, ...)."""

    path: Path
    facts: Mapping[str, Any]


class Session(ABC):
    """An opened engine. Fixed input size unless ``height``/``width`` are 0 (any size).

    Template method: ``run`` checks shapes and dtypes, ``_run`` is the runtime's call.
    """

    def __init__(self, height: int = 0, width: int = 0) -> None:
        self.height, self.width = height, width
        self._open = True

    def run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restore a batch.

        Args:
            lq: float32 [N, 3, H, W] in [0, 1], RGB.

        Returns:
            float32 [N, 3, H, W], unclamped.

        Raises:
            StageFailed: closed session, or an input of another rank, dtype or size.

        """
        if not self._open:
            raise StageFailed(type(self).__name__, "session is closed", "open it again")
        if lq.ndim != 4 or lq.shape[1] != 3 or lq.dtype != np.float32:
            raise StageFailed(type(self).__name__, f"input is {lq.dtype} {lq.shape}", "pass float32 [N, 3, H, W]")
        if self.height and lq.shape[2:] != (self.height, self.width):
            want = f"{self.height}x{self.width}"
            raise StageFailed(type(self).__name__, f"input is {lq.shape[2]}x{lq.shape[3]}", f"this engine takes {want}: tile the image")
        return self._run(np.ascontiguousarray(lq))

    def close(self) -> None:
        """Free the engine; running it afterwards is an error."""
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]: ...


class Backend(ABC):
    """A compiler and its runtime. A module in ``compile/<name>/`` exports one as ``BACKEND``.

    name       of its folder
    toolchain  distributions that it builds with
    needs      what a device must have to run its artifacts, in Markdown, as it stands behind "needs"; its name when left empty
    """

    name: ClassVar[str]
    toolchain: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = ""

    @abstractmethod
    def missing(self) -> str:
        """Empty when the toolchain is here; otherwise the line that installs it."""

    @abstractmethod
    def _build(self, request: BuildRequest) -> Built: ...

    @abstractmethod
    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session: ...

    def build(self, request: BuildRequest) -> Built:
        """Compile; raises ToolchainMissing when the compiler is not installed."""
        self._require()
        request.workdir.mkdir(parents=True, exist_ok=True)
        return self._build(request)

    def open(self, path: Path, facts: Mapping[str, Any], threads: int = 1) -> Session:
        """Open an engine on this machine; raises ToolchainMissing when its runtime is not installed."""
        self._require()
        return self._open(path, facts, threads)

    def accept(self, choice: BackendChoice, target: Target) -> None:  # noqa: B027 - most accept everything
        """Refuse, before anything is trained, options of the target file that this backend cannot follow; none by default."""

    def differences(self, built: Built, folder: Any) -> list[str] | None:
        """What of the model folder's scales, zero points and integers an int8 artifact holds otherwise, read back from the artifact.

        None, by default: the artifact is a Q/DQ ONNX file, which says it itself.
        """
        return None

    def _require(self) -> None:
        hint = self.missing()
        if hint:
            raise ToolchainMissing(self.name, "its packages are not installed", hint)


def load_backend(name: str) -> Backend:
    """The backend ``compile/<name>``, or the module that a dotted path names; raises ToolchainMissing when there is none."""
    path = name if "." in name else f"compile.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as e:
        raise ToolchainMissing(path, f"cannot be imported ({e})", 'pip install -e ".[all]"') from e
    backend = getattr(module, "BACKEND", None)
    if not isinstance(backend, Backend):
        raise ToolchainMissing(path, "exports no BACKEND", "name a folder in compile/")
    return backend


def open_session(path: Path, facts: Mapping[str, Any], threads: int = 1) -> Session:
    """Open an engine by the backend that its facts name."""
    return load_backend(str(facts["backend"])).open(path, facts, threads)
