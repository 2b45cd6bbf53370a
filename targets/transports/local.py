"""The machine itself as the board: the bundle runs in a folder of its own, with the interpreter that runs the pipeline."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence

from pipeline.errors import UsageError
from pipeline.machine import cpu_model
from targets.transports.common.base import Identity
from targets.transports.common.board import ANSWER_S
from targets.transports.common.process import Done
from targets.transports.common.shell import ShellTransport


class Local(ShellTransport):
    """``local``."""

    scheme = "local"
    form = "local"
    python = sys.executable
    brings_python = True

    def __init__(self, rest: str, say: Callable[[str], None]) -> None:
        if rest:
            raise UsageError(f"--on local:{rest}", "takes nothing after the name", "say --on local")
        super().__init__(rest, say)

    @classmethod
    def around(cls) -> list[str]:
        """The machine itself."""
        return [cls.scheme]

    def _command(self, argv: Sequence[str]) -> list[str]:
        return list(argv)

    def _dropped(self, done: Done) -> str:
        return ""

    def _base(self, identity: Identity) -> str:
        return tempfile.gettempdir()

    def identity(self, limit_s: float = ANSWER_S) -> Identity:
        """What this machine says it is; its processor by the name that the facts of a run have, which on ARM is not the part number."""
        return {**super().identity(limit_s), "cpu": cpu_model()}


TRANSPORT = Local
