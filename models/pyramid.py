"""Images at several scales, each half the size of the one before; every method exports to ONNX in plain operators."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Method = Literal["nearest", "bilinear", "antialias", "bicubic"]
"""nearest    every second pixel, from the first
bilinear   mean of 2x2 pixels
antialias  Pillow's bilinear reduction: a triangle over 4 pixels, renormalised at the border
bicubic    the four nearest pixels, Keys' kernel with a = -0.75, the border repeated; not antialiased
"""

_TRIANGLE = (0.125, 0.375)
_CUBIC = (-0.09375, 0.59375)


def halve(x: Tensor, method: Method) -> Tensor:
    """Half the height and width.

    Nearest, bilinear and bicubic are what ``torch.nn.functional.interpolate`` computes at scale 0.5 with ``align_corners=False``.
    Antialias is what Pillow's ``resize(..., BILINEAR)`` computes, but for its rounding of uint8 images.

    Args:
        x: floating point [N, C, H, W], any range; height and width even.
        method: how.

    Returns:
        [N, C, H / 2, W / 2] of the same type.

    Raises:
        ValueError: an odd side, or an unknown method.
    """
    _check(x, 2)
    if method == "nearest":
        return x[..., ::2, ::2]
    if method == "bilinear":
        return _bilinear(x, 0.5)
    if method == "bicubic":
        return _filter(F.pad(x, (1, 1, 1, 1), mode="replicate"), _CUBIC)
    if method == "antialias":
        weight = _filter(F.pad(torch.ones_like(x[:1, :1]), (1, 1, 1, 1)), _TRIANGLE)
        return _filter(F.pad(x, (1, 1, 1, 1)), _TRIANGLE) / weight
    raise ValueError(f"unknown method '{method}': nearest, bilinear, antialias or bicubic")


def pyramid(x: Tensor, levels: int, method: Method) -> list[Tensor]:
    """``x`` and ``levels - 1`` smaller images, full size first.

    Each is ``halve`` of the one before, but for bilinear: there each is interpolated from ``x`` itself (at a quarter of the size the
    mean of the middle 2x2 of 4x4 pixels, not of all 16), as MIMO-UNet's published training makes the targets of its losses.

    Args:
        x: floating point [N, C, H, W], any range; height and width multiples of ``2 ** (levels - 1)``.
        levels: how many images, at least 1.
        method: how; see ``Method``.

    Raises:
        ValueError: sides that do not fit, or an unknown method.
    """
    _check(x, 2 ** (levels - 1))
    images = [x]
    for level in range(1, levels):
        images.append(_bilinear(x, 0.5**level) if method == "bilinear" else halve(images[-1], method))
    return images


def _check(x: Tensor, multiple: int) -> None:
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(f"an image of {int(height)}x{int(width)} pixels cannot be reduced: both sides must be multiples of {multiple}")


def _bilinear(x: Tensor, scale: float) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def _filter(x: Tensor, taps: tuple[float, float]) -> Tensor:
    """Symmetric filter of four taps, given outer then inner, along both axes at stride 2, on an image padded by one pixel.

    Spelled out in sums, because a convolution loses precision under autocast, and these images are targets of losses.
    """
    outer, inner = taps
    rows = outer * (x[..., :-3:2, :] + x[..., 3::2, :]) + inner * (x[..., 1:-2:2, :] + x[..., 2:-1:2, :])
    return outer * (rows[..., :-3:2] + rows[..., 3::2]) + inner * (rows[..., 1:-2:2] + rows[..., 2:-1:2])
