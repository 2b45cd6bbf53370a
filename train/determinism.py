"""Randomness as a pure function of (seed, step, process), and deterministic kernels."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any parts, the same on every machine."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def set_seeds(*parts: int | str) -> None:
    """Seed torch (all devices), numpy and ``random`` from ``derive(*parts)``."""
    seed = derive(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # for code that uses numpy's global generator
    random.seed(seed)


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Inside the block every global generator starts from ``parts``; afterwards it goes on from where it was."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=cuda):
        set_seeds(*parts)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Deterministic algorithms inside the block; operators that have none warn, and memory is not filled."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    was, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
