"""When a training changes the size of its crops, as a pure function of its settings."""

from __future__ import annotations

from dataclasses import dataclass

from train.config import TrainConfig


@dataclass(frozen=True, slots=True)
class Phase:
    """From optimizer step ``step``, which begins with sample ``sample``, the training takes ``batch`` crops of ``crop`` pixels a step."""

    step: int
    sample: int
    batch: int
    crop: int


def phases(config: TrainConfig) -> tuple[Phase, ...]:
    """The phases of a training, the first from step 0 on; a patch that is not reached, or left before its first step, has none."""
    starts = {0: (config.batch, config.crop)}
    for patch in config.patches:
        starts[round(patch.from_ * config.steps)] = (patch.batch or config.batch, patch.crop)  # a later one takes over the same step
    found: list[Phase] = []
    for step, (batch, crop) in starts.items():
        if step < config.steps:
            sample = found[-1].sample + (step - found[-1].step) * found[-1].batch if found else 0
            found.append(Phase(step, sample, batch, crop))
    return tuple(found)


def samples(config: TrainConfig) -> int:
    """How many crops the whole training takes."""
    last = phases(config)[-1]
    return last.sample + (config.steps - last.step) * last.batch
