"""Running a network on an image of any size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.spec import Padding, padding_of, size_multiple

if TYPE_CHECKING:
    from numpy.typing import NDArray


def restore(module: nn.Module, lq: Tensor) -> Tensor:
    """Restore images of any size: padded right and bottom to the network's size multiple, as its ``padding`` says, and cropped back.

    Runs without gradients and in eval mode; the modes of its parts are put back.

    Args:
        module: a network of the pipeline.
        lq: float32 [N, 3, H, W] in [0, 1], on the module's device.

    Returns:
        float32 [N, 3, H, W], unclamped.
    """
    height, width = lq.shape[-2:]
    training = [part for part in module.modules() if part.training]
    try:
        with torch.no_grad():
            out: Tensor = module.eval()(pad_to_multiple(lq, size_multiple(module), padding_of(module)))
    finally:
        for part in training:
            part.training = True
    return out[..., :height, :width]


def pad_to_multiple(lq: Tensor, multiple: int, padding: Padding = "reflect") -> Tensor:
    """Pad [N, C, H, W] right and bottom to multiples.

    Args:
        lq: the images.
        multiple: of which both sides are to be.
        padding: ``zero``; ``replicate``, the border repeated; or ``reflect``, mirrored without repeating the border, which is
            repeated instead where a side is too short to mirror.
    """
    for axis in (-1, -2):
        side = lq.shape[axis]
        missing = -side % multiple
        if missing:
            mode = "constant" if padding == "zero" else padding if missing < side else "replicate"
            lq = F.pad(lq, (0, missing, 0, 0) if axis == -1 else (0, 0, 0, missing), mode=mode)
    return lq


def restore_image(module: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Restore one image: uint8 RGB [H, W, 3] -> uint8 RGB [H, W, 3], rounded and clipped."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    lq = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).to(device).float().div(255)
    out = restore(module, lq[None])[0].mul(255).round().clamp(0, 255)
    restored: NDArray[np.uint8] = out.to(torch.uint8).cpu().numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(restored)
