"""Training checkpoints: written atomically, read without executing anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


def write(path: Path, payload: dict[str, Any]) -> None:
    """Write tensors and plain Python values so that ``path`` is at any moment the old file or the new one, whole.

    Args:
        path: the checkpoint; a ``.tmp`` beside it may stay behind when the process is killed, and is overwritten next time.
        payload: what ``torch.load(weights_only=True)`` can read back.
    """
    tmp = path.with_name(path.name + ".tmp")
    with tmp.open("wb") as file:
        torch.save({"format": FORMAT, **payload}, file)
        file.flush()
        os.fsync(file.fileno())
    tmp.replace(path)
    _sync_folder(path.parent)


def read(path: Path, fingerprint: str) -> tuple[dict[str, Any] | None, str]:
    """The checkpoint at ``path`` if it belongs to the training that ``fingerprint`` names.

    Returns:
        The payload on the CPU and "", or None and the reason why there is none to resume from ("" when there is no file).
    """
    if not path.exists():
        return None, ""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as e:
        return None, f"{path.name} cannot be read ({type(e).__name__}): training starts anew"
    if not isinstance(payload, dict) or payload.get("format") != FORMAT or payload.get("fingerprint") != fingerprint:
        return None, f"{path.name} belongs to another training: this one starts anew"
    return payload, ""


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
