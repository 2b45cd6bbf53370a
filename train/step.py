"""What one training step differentiates, and the optimizer over it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.errors import ToolchainMissing
from train.config import TrainConfig

LossFn = Callable[..., tuple[Tensor, Mapping[str, Tensor]]]
"""(network, lq, gt, *more) -> (loss to minimise, scalars to log); lq and gt float32 [N, 3, H, W] in [0, 1], ``more`` what the samples
(``train.batches.Sample``) hold beside them. Means over the batch, so that parts of a batch average to the whole."""


class StepModule(nn.Module):
    """The network, whatever else is trained with it, and the loss, as one module: so that mixed precision covers all of it and
    DistributedDataParallel sees every parameter.

    Args:
        network: what is trained.
        extras: modules that the loss uses and that are trained as well, e.g. adapters.
        loss_fn: see ``LossFn``; its own (frozen) networks stay outside of this module's parameters.
    """

    def __init__(self, network: nn.Module, extras: Sequence[nn.Module], loss_fn: LossFn) -> None:
        super().__init__()
        self.network = network
        self.extras = nn.ModuleList(extras)
        self._loss = (loss_fn,)  # in a tuple, else a loss that is a module would be registered

    def forward(self, lq: Tensor, gt: Tensor, *more: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (0-dimensional) and the detached scalars."""
        loss, scalars = self._loss[0](self.network, lq, gt, *more)
        return loss, {name: value.detach() for name, value in scalars.items()}


def make_optimizer(module: nn.Module, config: TrainConfig, lr_scale: Mapping[str, float], fused: bool = True) -> torch.optim.Adam:
    """Adam (Kingma & Ba, 2015) or AdamW (Loshchilov & Hutter, 2019) in one group per (decay, learning-rate factor).

    Where ``config.decay`` is "matrices", weight decay is left off parameters with at most one dimension longer than 1: biases, norms,
    per-channel scales. AdamW's shrinks the weights by themselves, Adam's is an L2 penalty in the gradient.

    Args:
        module: its trainable parameters are optimized.
        config: optimizer, weight_decay, decay and betas are read; the rate is set at every step by ``set_lr``.
        lr_scale: glob pattern over parameter names -> factor on the learning rate; the first that matches counts.
        fused: one kernel for a whole step; Fabric cannot clip the gradients of such an optimizer in 16-mixed precision.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factor = next((f for pattern, f in lr_scale.items() if fnmatchcase(name, pattern)), 1.0)
            decays = config.decay == "all" or sum(size > 1 for size in parameter.shape) > 1
            decay = config.weight_decay if decays else 0.0
            groups.setdefault((decay, factor), []).append(parameter)
    settings = [{"params": p, "weight_decay": decay, "lr_factor": factor} for (decay, factor), p in groups.items()]
    kind: type[torch.optim.Adam] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    return kind(settings, lr=config.lr, betas=config.betas, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def lay_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Put the module's 4-dimensional weights into the memory layout ``layout``, in place."""
    module.to(memory_format=layout)  # type: ignore[call-overload]  # torch's annotation leaves it out


def compiled(module: nn.Module, device: torch.device, label: str) -> nn.Module:
    """``module`` behind ``torch.compile``, sharing its parameters; every size of the crops is compiled when it is first met.

    Raises:
        ToolchainMissing: the CPU's code needs a C++ compiler, and there is none.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ToolchainMissing(f"{label}: train.compile", f"needs a C++ compiler; '{compiler}' is not here", "apt-get install g++")
    return cast("nn.Module", torch.compile(module, dynamic=False))
