"""Hashes that say what decides a data set's bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UsageError(str(path), f"cannot be read ({e.strerror})", "check the path and its permissions") from e


def file_digests(paths: Sequence[Path]) -> list[str]:
    """``file_digest`` of many files, in order; several are read at once."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(file_digest, paths))


def joint_digest(digests: Iterable[str]) -> str:
    """One digest for a set of them, whatever their order; that of a single one is itself."""
    ordered = sorted(digests)
    return ordered[0] if len(ordered) == 1 else value_digest(ordered)


def value_digest(value: Any) -> str:
    """SHA-256 of a value made of dicts, lists, numbers and texts, 64 hex digits; the order of a dict's keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
