"""Which of torchrun's processes this is."""

from __future__ import annotations

import os

from train.launch import under_torchrun


def is_first_process() -> bool:
    """Whether this process is the one that measures and writes: the first of torchrun's over all machines, or the only one."""
    return not under_torchrun() or os.environ.get("RANK", "0") == "0"
