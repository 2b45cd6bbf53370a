"""Widths: of a network, as an equal share of every group, and on the way to a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from prune.groups import CONVOLUTIONS, Group, Plan

Widths = dict[str, int]


def uniform(groups: Sequence[Group], ratio: float, multiple: int) -> Plan:
    """Every group loses ``ratio`` of its channels; what is left is rounded down to a multiple, and is at least one multiple."""
    return {g.name: rounded(g.width, g.width * ratio, multiple) for g in groups}


def rounded(width: int, surplus: float, multiple: int) -> int:
    """``width`` less ``surplus``, rounded down to a multiple; at least one multiple, and never more than ``width``."""
    left = int(width - surplus + 1e-9)
    return width if left >= width else min(width, max(multiple, left // multiple * multiple))


def partway(groups: Sequence[Group], plan: Plan, share: float, multiple: int) -> Plan:
    """The widths when ``share`` (0 to 1) of what the plan removes is gone, rounded up to multiples."""
    out = {}
    for group in groups:
        goal = plan.get(group.name, group.width)
        left = math.ceil((group.width - (group.width - goal) * share) / multiple - 1e-9) * multiple
        out[group.name] = goal if share >= 1 else min(group.width, max(goal, left))
    return out


def widths(network: nn.Module) -> Widths:
    """Output channels of every convolution by name."""
    return {name: m.out_channels for name, m in network.named_modules() if isinstance(m, CONVOLUTIONS)}


def table(before: Widths, after: Widths) -> str:
    """One line: every layer's width before and after, ``stem.conv 24→16``."""
    return "channels " + ", ".join(
        f"{name} {before[name]}→{after[name]}" if after[name] != before[name] else f"{name} {before[name]}" for name in after
    )
