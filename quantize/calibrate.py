"""First scales from a calibration set: the float network's activations are seen twice, once for their range and once for their histogram.

``percentile``: the 99.99th percentile of the magnitudes becomes the last step: 127, or 255 of an unsigned tensor. ``mse``: the range
that makes the squared rounding error least. ``median``: the median over the pictures of each one's own 99.99th percentile; a picture
that drives the network to a hundred times its usual magnitudes (trained students do that on some) spoils the scales of all others by
the first two, and not by this. ``minmax``: the largest magnitude, which a single outlier decides; what common tools do, kept as a
comparison.

Whichever it is, two tensors get steps of exactly one grey level: the network's input where it is unsigned, so that nothing of an 8-bit
image is rounded, and what corrects the picture (the tensor that is added to the input at the end) where 127 grey levels suffice, since
the output is rounded to them anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.contract import Pair
from pipeline.errors import StageFailed
from quantize.fake import ActivationQuantizer
from quantize.insert import quantizers, set_all_float, set_float
from quantize.scheme import ACTIVATIONS, GREY_LEVEL

Method = Literal["percentile", "mse", "median", "minmax"]
Histograms = dict[str, "Histogram"]
See = Callable[[ActivationQuantizer, Tensor, int], None]
"""Told of every tensor, and of which image it is."""

BINS = 4096
PERCENTILE = 99.99


class Histogram:
    """How often which magnitude occurs in a tensor, in ``BINS`` equal bins from 0 to the largest.

    Args:
        largest: the largest magnitude, as a first pass found it.
        tops: the percentile of each image, as the first pass found them.
    """

    def __init__(self, largest: float, tops: Sequence[float] = ()) -> None:
        self.largest, self.tops = largest, tuple(tops)
        self.counts: NDArray[np.float64] = np.zeros(BINS)

    def add(self, x: Tensor) -> None:
        """Count the magnitudes of ``x``, float32 of any shape."""
        if self.largest > 0:
            self.counts += torch.histc(x.detach().abs().float(), BINS, 0.0, self.largest).numpy()

    @property
    def centres(self) -> NDArray[np.float64]:
        """float64 [BINS]: the magnitude at the middle of each bin."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * (self.largest / BINS)

    def percentile(self, q: float) -> float:
        """The magnitude that q per cent of the values do not exceed, to the width of a bin."""
        cumulative = np.cumsum(self.counts)
        if cumulative[-1] == 0:
            return 0.0
        return float((np.searchsorted(cumulative, cumulative[-1] * q / 100) + 1) * self.largest / BINS)

    def top(self, method: Method, steps: int = ACTIVATIONS.high) -> float:
        """The magnitude that becomes ``steps`` steps."""
        if method == "minmax":
            return self.largest
        if method == "median":
            return float(np.median(self.tops))
        return self.percentile(PERCENTILE) if method == "percentile" else self.best_range(steps)

    def best_range(self, steps: int = ACTIVATIONS.high) -> float:
        """The range [0, r] that, in ``steps`` steps with clipping, has the least squared error over the counted values."""
        ranges = self.largest * np.linspace(0.1, 1.0, 91)
        scales = ranges[:, None] / steps
        centres = self.centres[None]
        rounded = np.minimum(np.rint(centres / np.maximum(scales, 1e-30)), steps) * scales
        errors = ((rounded - centres) ** 2 * self.counts[None]).sum(1)
        return float(ranges[int(np.argmin(errors))])


def observe(network: nn.Module, images: Iterable[Tensor], progress: Callable[[int], None] = lambda done: None) -> Histograms:
    """Histograms of the float activations over ``images``, by tensor name; tensors that share a scale are counted together.

    Args:
        network: prepared by ``quantize.insert``; its scales are left as they are.
        images: float32 [1, 3, H, W] in [0, 1], sides multiples of the network's ``size_multiple``; read twice.
        progress: told the number of forward passes done.

    Raises:
        StageFailed: no image, or an activation that is not finite.
    """
    batches = list(images)
    if not batches:
        raise StageFailed("quantize", "the calibration set is empty", "give data.calibrate at least one pair")
    largest: dict[str, float] = {}
    tops: dict[str, list[float]] = {}

    def see_range(quantizer: ActivationQuantizer, x: Tensor, image: int) -> None:
        name, top = quantizer.leader.name, _finite(float(x.abs().max()), quantizer.name)
        largest[name] = max(largest.get(name, 0.0), top)
        own = Histogram(top)
        own.add(x)
        each = tops.setdefault(name, [0.0] * len(batches))
        each[image] = max(each[image], own.percentile(PERCENTILE))

    _watch(network, batches, see_range, progress)
    found = {name: Histogram(value, tops[name]) for name, value in largest.items()}
    _watch(network, batches, lambda quantizer, x, _: found[quantizer.leader.name].add(x), lambda done: progress(done + len(batches)))
    return found


def set_scales(network: nn.Module, histograms: Histograms, method: Method) -> None:
    """Set every scale of a prepared network by ``method``, and round every tensor."""
    set_float(network, ())
    for quantizer in quantizers(network).values():
        if quantizer.leader is quantizer:
            steps = quantizer.range.high
            scale = histograms[quantizer.name].top(method, steps) / steps
            in_grey_levels = (quantizer.is_picture and quantizer.unsigned) or (quantizer.corrects_picture and scale <= GREY_LEVEL)
            quantizer.set_scale(GREY_LEVEL if in_grey_levels else scale, learnable=not in_grey_levels)


def calibration_images(pairs: Iterable[Pair], multiple: int) -> Iterator[Tensor]:
    """The blurred images of ``pairs``, cropped to multiples of ``multiple``: float32 [1, 3, H, W] in [0, 1]."""
    for pair in pairs:
        lq = pair.lq
        height, width = (side // multiple * multiple for side in lq.shape[:2])
        yield torch.from_numpy(lq[:height, :width].astype(np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def _watch(network: nn.Module, batches: list[Tensor], see: See, progress: Callable[[int], None]) -> None:
    for image, batch in enumerate(batches):
        with _hooked(network, lambda quantizer, x, at=image: see(quantizer, x, at)), torch.no_grad():
            network(batch)
        progress(image + 1)


@contextmanager
def _hooked(network: nn.Module, see: Callable[[ActivationQuantizer, Tensor], None]) -> Iterator[None]:
    set_all_float(network)

    def hook(module: Any, args: tuple[Tensor, ...]) -> None:
        see(module, args[0])

    handles = [q.register_forward_pre_hook(hook) for q in quantizers(network).values() if not q.exact]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(value: float, name: str) -> float:
    if not np.isfinite(value):
        raise StageFailed(
            "quantize", f"the float network's tensor '{name}' is not finite on the calibration set", "look at the stage before"
        )
    return value
