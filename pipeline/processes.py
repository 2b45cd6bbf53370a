"""Which of torchrun's processes this is, told from its environment alone."""

from __future__ import annotations

import os


def place() -> tuple[int, int]:
    """(number of this process, number of processes) that torchrun started; (0, 1) without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
