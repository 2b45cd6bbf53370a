"""What a training says while it runs: TensorBoard scalars and progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from pipeline.contract import Progress

REFRESH_SECONDS = 0.5
SMOOTHING = 0.98


class TrainingLog:
    """Writes scalars to ``workdir/tensorboard`` and tells ``progress``; silent in all processes but the first.

    Args:
        workdir: the training's folder.
        progress: told at most twice a second.
        label, total: what is shown, and the number of steps.
        first: step that this process begins with; TensorBoard drops what an interrupted run wrote beyond it.
        every: steps between TensorBoard points.
        speaks: False in all processes but the first.
    """

    def __init__(self, workdir: Path, progress: Progress, label: str, total: int, first: int, every: int, speaks: bool) -> None:
        self.progress, self.label, self.total, self.every = progress, label, total, every
        self.writer = SummaryWriter(str(workdir / "tensorboard"), purge_step=first) if speaks else None
        self.shown = 0.0

    def step(self, done: int, scalars: Mapping[str, float], means: Mapping[str, float]) -> None:
        """Tell of the step that makes ``done`` steps done: its ``scalars`` and their running ``means``."""
        if self.writer is None:
            return
        if done % self.every == 0 or done == self.total:
            self.scalars(done, scalars)
        now = time.monotonic()
        if now - self.shown >= REFRESH_SECONDS or done == self.total:
            self.shown = now
            self.progress.update(self.label, done, self.total, **means)

    def scalars(self, done: int, values: Mapping[str, float]) -> None:
        """Write TensorBoard points at ``done`` steps."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{self.label}/{name}", value, done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()


def running_means(means: dict[str, float], scalars: Mapping[str, float], done: int) -> dict[str, float]:
    """Exponential running means after ``done`` steps, plain means over the first few."""
    keep = min(SMOOTHING, 1 - 1 / done)
    return {name: keep * means.get(name, value) + (1 - keep) * value for name, value in scalars.items()}
