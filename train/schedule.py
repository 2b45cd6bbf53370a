"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from train.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to ``lr``, then the fall that ``schedule`` names.

    Args:
        step: 0-based optimizer step.
        config: lr, min_lr, warmup, steps, schedule and the schedule's own options are read.
    """
    warmup = round(config.warmup * config.steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return _SCHEDULES[config.schedule](step, warmup, config)


def _cosine(step: int, start: int, config: TrainConfig) -> float:
    """Half a cosine to ``min_lr`` at the last step (Loshchilov & Hutter, SGDR, 2017)."""
    done = (step - start) / max(1, config.steps - 1 - start)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _step(step: int, start: int, config: TrainConfig) -> float:
    """Times ``step_factor`` after every ``step_every`` of the steps, counted from step 0; never below ``min_lr``."""
    every = max(1, round(config.step_every * config.steps))
    return max(config.min_lr, config.lr * math.pow(config.step_factor, step // every))


def _linear(step: int, start: int, config: TrainConfig) -> float:
    """``lr`` for ``hold`` of the steps, then a straight line that reaches ``min_lr`` behind the last step (pix2pix, DeblurGAN)."""
    return _fall(step, max(start, round(config.hold * config.steps)), 1.0, config)


def _constant(step: int, start: int, config: TrainConfig) -> float:
    return config.lr


def _poly(step: int, start: int, config: TrainConfig) -> float:
    """(1 - share done) to ``power``, ``min_lr`` behind the last step (polynomial decay of TensorFlow, SRN-DeblurNet)."""
    return _fall(step, start, config.power, config)


def _fall(step: int, start: int, power: float, config: TrainConfig) -> float:
    left = min(1.0, max(0.0, (config.steps - step) / max(1, config.steps - start)))
    return config.min_lr + (config.lr - config.min_lr) * math.pow(left, power)


_SCHEDULES: Mapping[str, Callable[[int, int, TrainConfig], float]] = MappingProxyType(
    {"cosine": _cosine, "step": _step, "linear": _linear, "constant": _constant, "poly": _poly}
)
