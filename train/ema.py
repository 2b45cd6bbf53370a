"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Moving average of a module's parameters and floating-point buffers.

    The decay rises with the number of updates as min(decay, (1 + n) / (10 + n)), so that the random start is soon forgotten
    (the rule of TensorFlow's ExponentialMovingAverage).

    Args:
        module: the network to follow; the average starts at its present weights.
        decay: in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = _tensors(module)
        self.average = [t.detach().clone() for t in self._live]

    @torch.no_grad()
    def update(self, count: int) -> None:
        """Move the average towards the weights; ``count`` is the number of optimizer steps done."""
        decay = min(self.decay, (1 + count) / (10 + count))
        for average, live in zip(self.average, self._live, strict=True):
            average.lerp_(live, 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Sequence[Tensor]) -> None:
        """Take an average that ``average`` gave before."""
        for average, saved in zip(self.average, tensors, strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def apply(self) -> None:
        """Write the average into the module."""
        for average, live in zip(self.average, self._live, strict=True):
            live.copy_(average)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the average inside the block, and its own weights again after it."""
        own = [t.detach().clone() for t in self._live]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for saved, live in zip(own, self._live, strict=True):
                    live.copy_(saved)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]
