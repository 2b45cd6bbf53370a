"""One training as a value: what a process needs to take part in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from train.adversary import Adversary, describe
from train.batches import CropSource
from train.config import TrainConfig
from train.step import LossFn

Validate = Callable[[nn.Module], Mapping[str, float]]
"""network (eval mode, with the averaged weights when there are any) -> scalars to log."""

_NOT_THE_RESULT = {"devices", "workers", "checkpoint_seconds", "checkpoint_steps", "log_steps"}


@dataclass(frozen=True)
class Job:
    """The arguments of ``train.loop.fit``; picklable when more than one device of this machine is to be used."""

    network: nn.Module
    loss_fn: LossFn
    dataset: CropSource
    config: TrainConfig
    workdir: Path
    label: str
    extras: Sequence[nn.Module] = ()
    validate: Validate | None = None
    validate_steps: int = 0
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    adversary: Adversary | None = None

    @property
    def checkpoint(self) -> Path:
        """Where the training checkpoint lies."""
        return self.workdir / "checkpoint.pt"

    def fingerprint(self) -> str:
        """64 hex digits over what must agree for a checkpoint to be continued: settings, names and shapes of the weights, the adversary."""
        shapes = [(n, tuple(t.shape)) for m in (self.network, *self.extras) for n, t in m.state_dict().items()]
        settings = self.config.model_dump_json(exclude=_NOT_THE_RESULT)
        adversary = describe(self.adversary) if self.adversary is not None else ""
        return hashlib.sha256(f"{settings} {sorted(self.lr_scale.items())} {shapes} {adversary}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FitReport:
    """What became of a training.

    steps: optimizer steps done. seconds: time spent in them, over all resumes. scalars: running means at the end.
    data_wait_share: share of the time spent waiting for data. resumed_at: step that this process began with.
    """

    steps: int
    seconds: float
    scalars: Mapping[str, float]
    data_wait_share: float
    resumed_at: int = 0

    @property
    def steps_per_second(self) -> float:
        """Optimizer steps per second."""
        return self.steps / self.seconds if self.seconds else 0.0
