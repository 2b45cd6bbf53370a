"""Hashes that name things: configurations, studies, random streams."""

from __future__ import annotations

import hashlib
from typing import Any

from pipeline.plan import canonical


def digest_of(value: Any) -> str:
    """SHA-256 over JSON with sorted keys, 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def seed_of(*parts: int | str) -> int:
    """A 32-bit seed from any parts, the same on every machine."""
    return int(digest_of(list(parts))[:8], 16)
