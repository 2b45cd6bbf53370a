"""Putting the means of layers back after channels went, and keeping them while training.

A layer that reads fewer channels returns another mean, and whatever follows was trained for the old one: pruned restorers come out
darker or brighter as a whole. Only the means are put back. The variances stay as they were: rescaling a channel that lost most of its
signal to its old variance would amplify what little is left of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from eval.quality import to_batch
from models.spec import size_multiple
from pipeline.contract import PairSource
from prune.groups import CONVOLUTIONS, Kept

SIDE = 256
"""Largest side of the images that means are taken on, in pixels."""


def middles(source: PairSource, count: int, network: nn.Module, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """(lq, gt), float32 [N, 3, S, S] in [0, 1]: the middles of up to ``count`` images, evenly spaced; S at most ``side``."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(count, len(source))).astype(int))
    pairs = [source[int(i)] for i in chosen]
    multiple = size_multiple(network)
    side = max(1, min(side, *(min(p.lq.shape[:2]) for p in pairs)) // multiple) * multiple
    lq, gt = (
        [torch.from_numpy(to_batch(_middle(image, side))) for image in images]
        for images in zip(*((p.lq, p.gt) for p in pairs), strict=True)
    )
    return torch.cat(lq), torch.cat(gt)


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    top, left = ((n - side) // 2 for n in image.shape[:2])
    return image[top : top + side, left : left + side]


def recentre(pruned: nn.Module, original: nn.Module, kept: Kept, images: Tensor) -> None:
    """Give every channel of ``pruned`` the mean that it has in ``original``: by running means and biases, in the order of the layers.

    Args:
        pruned: of ``prune.groups.cut``; changed in place.
        original: what it was cut from.
        kept: which channels are left.
        images: float32 [N, 3, H, W] in [0, 1].
    """
    wanted: dict[str, Tensor] = {}

    def record(name: str, layer: nn.Module) -> None:
        def hook(_layer: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            wanted[name] = _mean(args[0] if isinstance(layer, nn.BatchNorm2d) else out)

        hooks.append(layer.register_forward_hook(hook))

    def correct(name: str, layer: nn.Module) -> None:
        def hook(_layer: nn.Module, args: tuple[Tensor], out: Tensor) -> Tensor:
            return _shift(layer, args[0], out, wanted[name][kept[name]])

        hooks.append(layer.register_forward_hook(hook))

    for network, attach in ((original, record), (pruned, correct)):
        hooks: list[torch.utils.hooks.RemovableHandle] = []
        for name, layer in network.eval().named_modules():
            if _has_offset(layer):
                attach(name, layer)
        try:
            with torch.no_grad():
                network(images)
        finally:
            for handle in hooks:
                handle.remove()


def _has_offset(layer: nn.Module) -> bool:
    if isinstance(layer, nn.BatchNorm2d):
        return layer.running_mean is not None
    return isinstance(layer, CONVOLUTIONS) and layer.bias is not None


def _shift(layer: nn.Module, incoming: Tensor, out: Tensor, wanted: Tensor) -> Tensor:
    """Move the layer's offset so that its mean is ``wanted`` [C]; returns what it gives then."""
    if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
        layer.running_mean += _mean(incoming) - wanted
        corrected: Tensor = layer.forward(incoming)
        return corrected
    missing = wanted - _mean(out)
    if isinstance(layer, CONVOLUTIONS) and layer.bias is not None:
        layer.bias += missing
    return out + missing[:, None, None]


def _mean(x: Tensor) -> Tensor:
    return x.mean((0, 2, 3))


class FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation that stays in eval mode: its scale and offset are trained, its statistics are not."""

    def train(self, mode: bool = True) -> FrozenNorm:
        """Stay in eval mode."""
        super().train(False)
        return self


@contextmanager
def frozen_norms(network: nn.Module, frozen: bool = True) -> Iterator[None]:
    """Inside the block, training leaves the running statistics of ``network`` alone."""
    norms = [m for m in network.modules() if type(m) is nn.BatchNorm2d] if frozen else []
    for norm in norms:
        norm.__class__ = FrozenNorm
        norm.train(False)
    try:
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
