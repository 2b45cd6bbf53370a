"""The groups of layers that must lose channels together, and removing channels from them.

They follow from torch-pruning's dependency graph (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023): a residual sum,
a depthwise convolution or a gate ties the channels of several layers to each other.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.spec import size_multiple
from pipeline.errors import UsageError

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
OFFSETS = (*CONVOLUTIONS, nn.BatchNorm2d)

Plan = Mapping[str, int]
"""Group -> channels that it keeps."""

Scores = Mapping[str, Tensor]
"""Group -> importance of each channel, float [width]; the lowest go first."""

Kept = Mapping[str, Tensor]
"""Layer -> indices of its output channels that are left, int64, ascending."""


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that go together. ``name`` is that of its first layer, ``layers`` are the convolutions that return them."""

    name: str
    width: int
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A layer that a group touches: ``output`` says which side; channel ``own[i]`` of the layer is channel ``root[i]`` of the group."""

    name: str
    module: nn.Module
    output: bool
    own: Tensor
    root: Tensor


class Graph:
    """The groups of a network, which it prunes in place.

    Args:
        network: on the CPU. Its last convolution keeps its channels: they are the image's.

    Raises:
        UsageError: a network without convolutions, or one that the dependency graph does not understand.
    """

    def __init__(self, network: nn.Module) -> None:
        import torch_pruning as tp

        self.network = network.eval()
        self._sample = torch.zeros(1, 3, *(2 * [4 * size_multiple(network)]))
        self.head = output_convolution(network, self._sample)
        self._names = {module: name for name, module in network.named_modules()}
        self._order = {name: i for i, name in enumerate(self._names.values())}
        with understood(network):
            self._dependencies: Any = tp.DependencyGraph().build_dependency(network, example_inputs=self._sample)
            found = self._dependencies.get_all_groups(ignored_layers=[self.head], root_module_types=list(CONVOLUTIONS))
            raw = [(self._describe(group), group) for group in found]
        self._raw = dict(sorted(((g.name, (g, r)) for g, r in raw), key=lambda item: self._order[item[0]]))

    @property
    def groups(self) -> list[Group]:
        """Every group that can lose channels, in the order of their first layers."""
        return [group for group, _ in self._raw.values()]

    def members(self, name: str) -> list[Member]:
        """The convolutions and norms that a group touches."""
        return list(self._members(self._raw[name][1]))

    def raw(self, name: str) -> Any:
        """torch-pruning's own group."""
        return self._raw[name][1]

    def remove(self, name: str, channels: list[int]) -> dict[str, Tensor]:
        """Remove channels of a group from all its layers; says for each layer which of its own outputs went."""
        root = self._raw[name][1][0].dep
        group = self._dependencies.get_pruning_group(root.target.module, root.handler, sorted(channels))
        if not self._dependencies.check_pruning_group(group):
            raise ValueError(f"group {name} would lose a whole layer")
        gone = {m.name: m.own for m in self._members(group) if m.output}
        group.prune()
        return gone

    def check(self) -> None:
        """Raise ValueError unless the network still returns an image of its input's size."""
        with torch.no_grad():
            out = self.network(self._sample)
        if out.shape != self._sample.shape:
            raise ValueError(f"its output became {list(out.shape)}")

    def _describe(self, group: Any) -> Group:
        names = {m.name for m in self._members(group) if m.output and isinstance(m.module, CONVOLUTIONS)}
        layers = tuple(sorted(names, key=self._order.__getitem__))
        return Group(layers[0], self._dependencies.get_out_channels(group[0].dep.target.module), layers)

    def _members(self, group: Any) -> Iterator[Member]:
        for item in group:
            module = item.dep.target.module
            if isinstance(module, OFFSETS) and all(i is not None for i in item.root_idxs):
                output = bool(self._dependencies.is_out_channel_pruning_fn(item.dep.handler))
                yield Member(self._names[module], module, output, torch.tensor(item.idxs), torch.tensor(item.root_idxs))


def cut(network: nn.Module, plan: Plan, scores: Scores) -> tuple[nn.Module, Kept]:
    """A copy of ``network`` with the groups of ``plan`` at the widths that it says, and which channels each layer kept.

    Raises:
        UsageError: a network that breaks when it is pruned.
    """
    pruned = copy.deepcopy(network).eval()
    kept = {name: torch.arange(width_of(m)) for name, m in pruned.named_modules() if isinstance(m, OFFSETS)}
    graph = Graph(pruned)
    with understood(network):
        for group in graph.groups:
            surplus = group.width - plan.get(group.name, group.width)
            if surplus > 0:
                lowest = torch.argsort(scores[group.name], stable=True)[:surplus]
                for layer, gone in graph.remove(group.name, lowest.tolist()).items():
                    kept[layer] = kept[layer][~torch.isin(torch.arange(len(kept[layer])), gone)]
        graph.check()
    return pruned, kept


def width_of(module: nn.Module) -> int:
    """Output channels of a convolution or a norm."""
    return int(module.out_channels if isinstance(module, CONVOLUTIONS) else module.num_features)  # type: ignore[arg-type]


def output_convolution(network: nn.Module, sample: Tensor) -> nn.Module:
    """The convolution that runs last; raises UsageError when there is none."""
    last: list[nn.Module] = []
    hooks = [
        m.register_forward_hook(lambda module, _args, _out: last.append(module)) for m in network.modules() if isinstance(m, CONVOLUTIONS)
    ]
    try:
        with torch.no_grad():
            network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise UsageError("prune", f"{type(network).__name__} has no convolution", "prune a convolutional network")
    return last[-1]


@contextmanager
def understood(network: nn.Module) -> Iterator[None]:
    """What torch-pruning raises on a network that it cannot follow becomes a UsageError; its warnings are left out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as e:
        what = f"{type(network).__name__} cannot be pruned ({type(e).__name__}: {e})"
        raise UsageError("prune", what, "prune a student, or leave the prune stage out") from e
