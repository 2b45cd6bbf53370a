"""An emulated machine for a test."""

from __future__ import annotations

import pytest

from targets.emulate.emulator import Emulator


def emulator(cpu: str = "cortex-a76", system: str = "bookworm") -> Emulator:
    """An emulated machine; skips, with the line that installs it, where it is missing."""
    found = Emulator(cpu, system)
    if found.missing():
        pytest.skip(f"needs emulation: {found.missing()}")
    return found
