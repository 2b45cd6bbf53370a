"""An emulated CPU of this machine: the bundle's scripts run under qemu. It proves that they work there; its timings prove nothing."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from targets.transports.common.base import Identity
from targets.transports.common.board import ANSWER_S
from targets.transports.common.process import Done
from targets.transports.common.shell import ShellTransport


class Emulate(ShellTransport):
    """``emulate:<cpu>``. Files are handled by this machine's shell; only the bundle's own programs are emulated."""

    scheme = "emulate"
    form = "emulate:cpu"
    brings_python = True
    function_only = True

    def __init__(self, rest: str, say: Callable[[str], None]) -> None:
        super().__init__(rest, say)
        if not rest:
            raise UsageError("--on emulate", "names no CPU", "e.g. --on emulate:cortex-a76")
        importlib.import_module("targets.emulate.cpus").cpu_model(rest)  # refuses what is no CPU before anything is looked for
        self._root = ""
        self._machine: Any = None

    def _open(self) -> None:
        module = importlib.import_module("targets.emulate.emulator")
        self._machine = module.Emulator(cpu=self.rest)
        self._root = tempfile.mkdtemp(prefix="deblur-emulate-")
        self._machine.command(Path(self._root), ["true"])  # says what is missing before anything is copied
        self._machine.lay_out(Path(self._root))

    def _close(self) -> None:
        if self._root:
            shutil.rmtree(self._root, ignore_errors=True)
        self._root = ""

    def _command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def _dropped(self, done: Done) -> str:
        return ""

    def _base(self, identity: Identity) -> str:
        return tempfile.gettempdir()

    def _program(self, argv: Sequence[str], folder: str) -> list[str]:
        module = importlib.import_module("targets.emulate.emulator")
        machine = module.Emulator(cpu=self.rest, system=self._machine.system, binds={module.WORK: Path(folder)})
        inside: list[str] = machine.command(Path(self._root), super()._program(argv, folder), module.WORK)
        environment = [f"{key}={value}" for key, value in machine.environment().items()]
        return ["env", "-i", *environment, str(shutil.which(inside[0])), *inside[1:]]

    def identity(self, limit_s: float = ANSWER_S) -> Identity:
        """The emulated machine; this machine's shell only knows where things lie."""
        here = super().identity(limit_s)
        return {**{k: here[k] for k in ("uid", "tmp") if k in here}, "machine": "aarch64", "emulated": str(self._machine.model.name)}


TRANSPORT = Emulate
