"""Removing channels: which ones, and from which layers together.

Channels are ranked by the L1 norm of their filters (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017) summed over every
layer that must lose them together, as torch-pruning's dependency graph finds them (Fang et al., "DepGraph", CVPR 2023).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.arch import size_multiple
from pipeline.errors import UsageError

Widths = dict[str, int]
_CONVS = (nn.Conv2d, nn.ConvTranspose2d)


@dataclass(frozen=True, slots=True)
class Shrink:
    """What to remove.

    ratio           share of the channels of each layer, before rounding
    max_ratio       largest share of one layer under global ranking
    multiple        widths that pruning changes become multiples of this
    global_ranking  compare channels over all layers
    rounds          remove the channels in this many steps
    """

    ratio: float
    max_ratio: float
    multiple: int
    global_ranking: bool = False
    rounds: int = 1


def shrink(network: nn.Module, what: Shrink) -> Iterator[nn.Module]:
    """Prune a copy of ``network`` in place, round by round; after each round it is yielded, to be trained before the next.

    The network's last convolution keeps its channels: they are the image's.

    Args:
        network: on the CPU.
        what: how much.

    Raises:
        UsageError: a network that the dependency graph does not understand.
    """
    import torch_pruning as tp

    pruned = copy.deepcopy(network).eval()
    side = 4 * size_multiple(pruned)
    sample = torch.zeros(1, 3, side, side)
    head = output_convolution(pruned, sample)
    try:
        with _quiet():
            pruner: Any = tp.pruner.BasePruner(
                pruned,
                sample,
                importance=tp.importance.GroupMagnitudeImportance(p=1),
                pruning_ratio=what.ratio,
                max_pruning_ratio=max(what.ratio, what.max_ratio),
                global_pruning=what.global_ranking,
                round_to=what.multiple,
                iterative_steps=what.rounds,
                ignored_layers=[head],
            )
        for _ in range(what.rounds):
            with _quiet():
                pruner.step()
            _check_runs(pruned, sample)
            yield pruned
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as e:
        what_failed = f"{type(network).__name__} cannot be pruned ({type(e).__name__}: {e})"
        raise UsageError("prune", what_failed, "prune a student, or leave the prune stage out") from e


def output_convolution(network: nn.Module, sample: torch.Tensor) -> nn.Module:
    """The convolution that runs last; raises UsageError when there is none."""
    last: list[nn.Module] = []
    hooks = [m.register_forward_hook(lambda module, _args, _out: last.append(module)) for m in network.modules() if isinstance(m, _CONVS)]
    try:
        with torch.no_grad():
            network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise UsageError("prune", f"{type(network).__name__} has no convolution", "prune a convolutional network")
    return last[-1]


def widths(network: nn.Module) -> Widths:
    """Output channels of every convolution by name."""
    return {name: m.out_channels for name, m in network.named_modules() if isinstance(m, _CONVS)}


def table(before: Widths, after: Widths) -> str:
    """One line: every layer's width before and after, ``stem.conv 24→16``."""
    return "channels " + ", ".join(
        f"{name} {before[name]}→{after[name]}" if after[name] != before[name] else f"{name} {before[name]}" for name in after
    )


def _check_runs(network: nn.Module, sample: torch.Tensor) -> None:
    with torch.no_grad():
        out = network.eval()(sample)
    if out.shape != sample.shape:
        raise ValueError(f"its output became {list(out.shape)}")


class _quiet(warnings.catch_warnings):  # noqa: N801 - reads as the context manager that it is
    """Without torch-pruning's warnings on parameters that it leaves alone."""

    def __enter__(self) -> Any:
        out = super().__enter__()
        warnings.simplefilter("ignore")
        return out
