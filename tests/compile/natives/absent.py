"""A backend whose package is nowhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from eval.session import Backend, BuildRequest, Built, Session


class Absent(Backend):
    name: ClassVar[str] = "absent"

    def missing(self) -> str:
        return "" if importlib.util.find_spec("a_package_that_nobody_wrote") else "pip install a-package-that-nobody-wrote"

    def _build(self, request: BuildRequest) -> Built:
        raise RuntimeError

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        raise RuntimeError


BACKEND = Absent()
