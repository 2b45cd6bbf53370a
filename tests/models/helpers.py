"""Networks with something to compute: fresh ones are nearly the identity."""

import torch
from torch import nn

from models.arch import build, load_arch


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch statistics, so that every part of the network changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1, generator=generator)
                part.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def small(name: str, **config) -> nn.Module:
    """The architecture's smallest network, with some values changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(build(name, {**load_arch(name).small, **config}))


def image(height: int, width: int, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def prune_half(module: nn.Module, ignored: list[nn.Module]) -> None:
    """Remove half of the channels with torch-pruning, as the prune stage does."""
    import torch_pruning as tp

    sample = image(64, 64)
    importance = tp.importance.GroupMagnitudeImportance(p=1)
    tp.pruner.BasePruner(module, sample, importance=importance, pruning_ratio=0.5, round_to=8, ignored_layers=ignored).step()
