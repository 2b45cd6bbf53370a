"""Several teachers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.restore import pad_to_multiple
from models.spec import padding_of, size_multiple


class Ensemble(nn.Module):
    """The weighted mean of several networks' outputs, and the features of the first.

    Args:
        members: networks of ``models``, any architectures.
        weights: how much each output counts, at least one above 0; empty: all alike.

    Raises:
        ValueError: no members, or not one weight for each.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float] = ()) -> None:
        super().__init__()
        weights = tuple(weights) or (1.0,) * len(members)
        if not members or len(weights) != len(members) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"{len(weights)} weights for {len(members)} networks: {weights}")
        self.members = nn.ModuleList(members)
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.size_multiple = math.lcm(*(size_multiple(member) for member in members))
        self.padding = padding_of(members[0])

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1]; returns the same shape, unclamped."""
        return self._mean(lq, self.members[0](lq))

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the first network's features, coarse last; none where it has none."""
        first: Any = self.members[0]
        output, features = first.features(lq) if hasattr(first, "features") else (first(lq), [])
        return self._mean(lq, output), features

    def _mean(self, lq: Tensor, first: Tensor) -> Tensor:
        total = self.weights[0] * first.float()
        for weight, member in zip(self.weights[1:], list(self.members)[1:], strict=True):
            total = total + weight * member(lq).float()
        return total


def answer(teacher: nn.Module, lq: Tensor, with_features: bool) -> tuple[Tensor, list[Tensor]]:
    """The teacher's restored image, cut to the size of ``lq``, and its features, of the image padded to the teacher's size multiple.

    Args:
        teacher: in eval mode, on the device of ``lq``; call it without gradients.
        lq: float32 [N, 3, H, W] in [0, 1], of any size.
        with_features: False asks for the image alone.
    """
    height, width = lq.shape[-2:]
    padded = pad_to_multiple(lq, size_multiple(teacher), padding_of(teacher))
    output, features = teacher.features(padded) if with_features else (teacher(padded), [])  # type: ignore[operator]
    return output[..., :height, :width], features
