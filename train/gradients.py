"""Gradients between backward pass and optimizer: averaged over processes, measured, clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.errors import UsageError
from train.config import TrainConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def clipped_alone(module: nn.Module, config: TrainConfig, label: str) -> list[nn.Parameter]:
    """The trainable parameters of ``module`` that ``clip_only`` names; none where it is not set.

    Raises:
        UsageError: it names no parameter.
    """
    pattern = config.clip_only
    if pattern is None:
        return []
    names = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = [p for name, p in names.items() if fnmatchcase(name, pattern)]
    if not found:
        what = f"'{pattern}' is the name of no weight that is trained"
        raise UsageError(f"{label}: train.clip_only", what, f"match names such as '{next(iter(names), 'network.*')}'")
    return found


def clip(fabric: Fabric, wrapped: Any, optimizer: Any, config: TrainConfig, only: Sequence[nn.Parameter]) -> float:
    """Clip to ``config.clip`` the norm of all gradients, or of those of ``only`` where there are any.

    Returns:
        The norm of all gradients before that, of the whole batch; infinite or NaN where one of them is.
    """
    limit = config.clip or math.inf
    norm: Any = fabric.clip_gradients(wrapped, optimizer, max_norm=math.inf if only else limit, error_if_nonfinite=False)
    if only:
        nn.utils.clip_grad_norm_(only, limit)
    return float(norm)


def may_overflow(fabric: Fabric) -> bool:
    """Whether gradients may be infinite because 16-mixed scales the loss up: such a step is left out, and the scale is halved."""
    scaler = scaler_of(fabric)
    return scaler is not None and scaler.get_scale() > 1


def scaler_of(fabric: Fabric) -> Any:
    """The gradient scaler of 16-mixed precision, else None."""
    return getattr(fabric.strategy.precision, "scaler", None)


def average(fabric: Fabric, parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients by their means over all processes, which must have gradients of the same parameters."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if fabric.world_size == 1 or not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    mean: Any = fabric.all_reduce(flat, reduce_op="mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def norm_of(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, 0-dimensional."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
