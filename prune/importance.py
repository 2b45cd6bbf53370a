"""Which channels of a group matter least.

l1      L1 norm of the filters (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017), mean over all layers of the group
taylor  squared first-order change of the loss when the channel is taken from all layers that read it, mean over batches
        (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019)
random  a seeded draw: what any ranking must beat
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.contract import PairSource
from prune.config import ImportanceName, Recovery
from prune.groups import CONVOLUTIONS, Graph, Member, Scores
from train.determinism import derive
from train.phases import phases
from train.recover import training_crops
from train.teacher_loss import TeacherLoss

Batch = tuple[Tensor, Tensor]
Ranking = Callable[[nn.Module], Scores]
"""network -> importance of the channels of its groups."""

BATCHES = 8
"""Training batches that ``taylor`` looks at."""


def ranking(name: ImportanceName, source: PairSource, teacher: nn.Module | None, config: Recovery, seed: int) -> Ranking:
    """The ranking of that name.

    Args:
        name: see above.
        source: pairs whose crops ``taylor`` computes its loss on: those that the recovery begins with.
        teacher: part of that loss, as in the recovery; None: the ground truth alone.
        config: the recovery.
        seed: decides the crops, and the draw of ``random``.
    """
    return _RANKINGS[name](source, teacher, config, seed)


def l1(network: nn.Module) -> Scores:
    """L1 norms; group -> float [width]."""
    import torch_pruning as tp

    graph, norm = Graph(network), tp.importance.GroupMagnitudeImportance(p=1)
    return {group.name: norm(graph.raw(group.name)) for group in graph.groups}


def random(network: nn.Module, seed: int) -> Scores:
    """Uniform numbers from (seed, group)."""
    draws = {g: torch.Generator().manual_seed(derive(seed, "importance", g.name)) for g in Graph(network).groups}
    return {group.name: torch.rand(group.width, generator=generator) for group, generator in draws.items()}


def taylor(network: nn.Module, batches: Sequence[Batch], loss: TeacherLoss) -> Scores:
    """First-order importance; the network's gradients are empty before and after.

    With the channel's activation a gone, the loss changes by about -a·dL/da, which is the sum of w·dL/dw over the weights that read it.

    Args:
        network: on the CPU.
        batches: (lq, gt), float32 [N, 3, H, W] in [0, 1].
        loss: what the channels matter for.
    """
    graph = Graph(network)
    readers = {g.name: [m for m in graph.members(g.name) if not m.output] for g in graph.groups}
    scores = {group.name: torch.zeros(group.width) for group in graph.groups}
    for lq, gt in batches:
        network.zero_grad()
        loss(network, lq, gt)[0].backward()  # type: ignore[no-untyped-call]
        for name, members in readers.items():
            change = torch.zeros_like(scores[name])
            for member in members:
                change.index_add_(0, member.root, _change(member)[member.own])
            scores[name] += change.square() / len(batches)
    network.zero_grad()
    return scores


def _change(member: Member) -> Tensor:
    """Sum of w·dL/dw over all weights that read an input channel: [inputs]."""
    weight = member.module.weight
    if not isinstance(weight, nn.Parameter) or weight.grad is None or not isinstance(member.module, CONVOLUTIONS):
        raise TypeError(f"{member.name} has no gradient")
    product = weight.detach() * weight.grad
    if isinstance(member.module, nn.ConvTranspose2d):
        return product.flatten(1).sum(1)
    return product.transpose(0, 1).flatten(1).sum(1)


def _l1(*_: object) -> Ranking:
    return l1


def _random(_source: PairSource, _teacher: nn.Module | None, _config: Recovery, seed: int) -> Ranking:
    return partial(random, seed=seed)


def _taylor(source: PairSource, teacher: nn.Module | None, config: Recovery, seed: int) -> Ranking:
    first = phases(config.train)[0]
    update = {"steps": max(config.train.steps, BATCHES), "patches": (), "batch": first.batch, "crop": first.crop}
    crops, size = training_crops(source, config.train.seeded(seed).model_copy(update=update)), first.batch
    rows = [[crops[b * size + i] for i in range(size)] for b in range(BATCHES)]
    lq, gt = ([torch.from_numpy(np.stack([sample[side] for sample in row])) for row in rows] for side in (0, 1))
    batches = list(zip(lq, gt, strict=True))
    return partial(taylor, batches=batches, loss=TeacherLoss(config, teacher))


_RANKINGS: Mapping[ImportanceName, Callable[..., Ranking]] = MappingProxyType({"l1": _l1, "taylor": _taylor, "random": _random})
