"""Architectures and their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.foreign import Teacher


def load_checkpoint(path: str | Path, arch: str | None = None, **config: Any) -> Teacher:
    """A network from published weights or from the pipeline's own checkpoint; see ``models.foreign.load_checkpoint``."""
    from models.foreign import load_checkpoint as load

    return load(path, arch, **config)
