"""NAFNet's test-time local converter (Chu, Chen, Chen, Lu: Improving Image Restoration by Revisiting Global Information
Aggregation, ECCV 2022): channel attention over a window of the size seen in training instead of over the whole image.

The sum over a window of k pixels is put together from sums over 1, 2, 4, ... pixels, along one axis and then along the other: about
2 log2(k) additions per pixel, each of numbers of one magnitude, where an integral image subtracts numbers as large as the image's total
and loses the digits. In ONNX it is slices and additions: every runtime has them, and they run in parallel where CumSum is a loop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 1 << 18
"""Elements that are summed at a time: 1 MiB of float32 stays in the cache through all the additions."""


def window_of(side: int, tlc: int) -> int:
    """Side of the window at a scale, frozen from the training size.

    Args:
        side: of the scale's map when the image is of the training size.
        tlc: the training size, height and width of the crops in pixels.
    """
    return side * int(1.5 * tlc) // tlc


class LocalMean(nn.Module):
    """Mean over every full window of a map; over a whole side where the map is smaller than the window.

    Args:
        window: side of the square window in pixels.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H - h + 1, W - w + 1] with h = min(H, window), w = min(W, window)."""
        if torch.onnx.is_in_onnx_export():
            return self._traced(x)
        height, width = x.shape[2:]
        if height <= self.window and width <= self.window:
            return F.adaptive_avg_pool2d(x, 1)
        full = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        along_rows = _chunked_mean(full, min(width, self.window), 3)
        return _chunked_mean(along_rows, min(height, self.window), 2).to(x.dtype)

    def _traced(self, x: Tensor) -> Tensor:
        """For graphs of free size: the count of additions must not depend on it, so that a small map is filled up with zeros."""
        height, width = (torch.as_tensor(side) for side in x.shape[2:])
        window, none = torch.tensor(self.window), torch.tensor(0)
        x = F.pad(x, (0, torch.maximum(window - width, none), 0, torch.maximum(window - height, none)))  # type: ignore[arg-type]
        x = run_sum(x, self.window, 3) / torch.minimum(window, width)
        return run_sum(x, self.window, 2) / torch.minimum(window, height)


class LocalAttention(nn.Sequential):
    """Local mean, then a 1x1 convolution, then the border values repeated out to the map's size (half the window on each side).

    The convolution stands before the repetition: the same numbers from fewer pixels.

    Args:
        channels: of input and output.
        window: side of the square window in pixels.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__(LocalMean(window), nn.Conv2d(channels, channels, 1))
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape, or [N, C, 1, 1] where the window covers the map."""
        attention: Tensor = self[1](self[0](x))
        if torch.onnx.is_in_onnx_export():
            return self._repeated(self._repeated(attention, 2, x.shape[2]), 3, x.shape[3])
        if attention.shape[2:] == (1, 1):
            return attention
        height, width = (x.shape[axis] - attention.shape[axis] for axis in (2, 3))
        return F.pad(attention, (width // 2, (width + 1) // 2, height // 2, (height + 1) // 2), mode="replicate")

    def _repeated(self, attention: Tensor, axis: int, side: int) -> Tensor:
        """For graphs of free size: the simplifier of exported files exchanges the two ends of a Pad whose amounts were not constant.

        Half the window is half of what is missing; where the window covers the side, there is one value to repeat anyway.
        """
        index = torch.arange(side, device=attention.device) - (self.window - 1) // 2
        last = torch.as_tensor(attention.shape[axis]) - 1
        return attention.index_select(axis, torch.minimum(torch.maximum(index, torch.tensor(0)), last))


def run_sum(x: Tensor, count: int, axis: int) -> Tensor:
    """Sum of every ``count`` neighbours along an axis: the axis' side n becomes n - count + 1."""
    side = x.shape[axis] - count + 1
    total: Tensor | None = None
    power, offset = 1, 0
    while True:
        if count & power:
            part = x.narrow(axis, offset, side)
            total = part if total is None else total + part
            offset += power
        if 2 * power > count:
            return x if total is None else total
        shorter = x.shape[axis] - power
        x = x.narrow(axis, 0, shorter) + x.narrow(axis, power, shorter)
        power *= 2


def _chunked_mean(x: Tensor, count: int, axis: int) -> Tensor:
    """Means of ``count`` neighbours along an axis (2 or 3), some lines of the other axis at a time unless gradients are needed."""
    if count == 1:
        return x
    if count == x.shape[axis]:
        return x.mean(axis, keepdim=True)
    if torch.is_grad_enabled() and x.requires_grad:
        return run_sum(x, count, axis) / count
    shape = list(x.shape)
    shape[axis] -= count - 1
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    means = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    other = 5 - axis
    lines = max(1, CHUNK * x.shape[other] // x.numel()) if x.device.type == "cpu" else x.shape[other]
    for start in range(0, x.shape[other], lines):
        size = min(lines, x.shape[other] - start)
        torch.div(run_sum(x.narrow(other, start, size), count, axis), count, out=means.narrow(other, start, size))
    return means
