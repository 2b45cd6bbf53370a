"""The student's building blocks. Everything that a quantizer or a pruner must find is a module."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.student.config import Activation, BlockSpec, Upsample

ACTIVATIONS: dict[str, type[nn.Module]] = {"hardswish": nn.Hardswish, "relu": nn.ReLU, "relu6": nn.ReLU6}

EPS = 1e-3
"""Batch normalisation's, as in MobileNetV3's published training. A channel that is all but silent on training crops has a variance near
zero; by torch's 1e-5 it is amplified up to 300 times, and on a picture where it speaks it drowns the others: one of 40 photographs
fell from 29.3 to 20.8 dB."""


class Unshuffle(nn.Module):
    """Space to depth: [N, C, H, W] -> [N, f²C, H / f, W / f], the position within the f×f cell being the slow part of the channel.

    That is the order of ONNX's and TensorFlow's SpaceToDepth (PyTorch's ``PixelUnshuffle`` has another), so that the exported
    network has one operator here at any size.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange; nothing is computed."""
        if self.factor == 1:
            return x
        if torch.onnx.is_in_onnx_export():
            return cast(Tensor, _SpaceToDepth.apply(x, self.factor))  # type: ignore[no-untyped-call] # torch leaves apply untyped
        return _space_to_depth(x, self.factor)


def _space_to_depth(x: Tensor, factor: int) -> Tensor:
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // factor, factor, w // factor, factor)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(n, factor * factor * c, h // factor, w // factor)


class _SpaceToDepth(torch.autograd.Function):
    """Only the exporter meets it: there it becomes the operator of that name."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, factor: int) -> Tensor:
        return _space_to_depth(x, factor)

    @staticmethod
    def symbolic(g: Any, x: Any, factor: int) -> Any:
        return g.op("SpaceToDepth", x, blocksize_i=factor)


class Add(nn.Module):
    """Sum of two tensors of equal shape."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``a + b``."""
        return a + b


class Concat(nn.Module):
    """Two tensors behind each other along the channels: [N, A, H, W], [N, B, H, W] -> [N, A + B, H, W]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate."""
        return torch.cat([a, b], 1)


class Mul(nn.Module):
    """Product of features [N, C, H, W] and a gate [N, C, 1, 1]."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """``x * gate``."""
        return x * gate


class HardSigmoid(nn.Module):
    """relu6(x + 3) / 6, spelled in operators that every mobile runtime has (Howard et al., MobileNetV3, ICCV 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        """The gate, in [0, 1]."""
        return F.relu6(x + 3) * (1 / 6)


class ConvBnAct(nn.Module):
    """Convolution, batch normalisation, activation.

    Args:
        incoming, width: channels.
        kernel: odd size; padded so that stride 1 keeps height and width.
        stride: 1 or 2.
        activation: None for a linear one.
        depthwise: one filter per channel (``incoming == width``).
        batchnorm: False: already folded into the convolution, which then has a bias.
    """

    conv: nn.Conv2d | nn.ConvTranspose2d

    def __init__(
        self,
        incoming: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        activation: Activation | None = None,
        depthwise: bool = False,
        batchnorm: bool = True,
    ) -> None:
        super().__init__()
        groups = incoming if depthwise else 1
        self.conv = nn.Conv2d(incoming, width, kernel, stride, kernel // 2, groups=groups, bias=not batchnorm)
        self.bn = nn.BatchNorm2d(width, eps=EPS) if batchnorm else nn.Identity()
        self.act = ACTIVATIONS[activation]() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, incoming, H, W] -> [N, width, H / stride, W / stride]."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class SqueezeExcite(nn.Module):
    """Channel attention as in MobileNetV3: pool, reduce, ReLU, restore, hard sigmoid, multiply."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.act = nn.ReLU()
        self.restore = nn.Conv2d(inner, channels, 1)
        self.gate = HardSigmoid()
        self.mul = Mul()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        out: Tensor = self.mul(x, self.gate(self.restore(self.act(self.reduce(self.pool(x))))))
        return out


class Block(nn.Module):
    """A block of either kind: expand (1x1 then depthwise, or one dense convolution), squeeze-excite, project, add.

    ``inverted_residual`` is MobileNetV3's, ``fused`` EfficientNetV2's (Tan and Le, ICML 2021): dense convolutions cost more
    multiplications but fewer bytes, which pays in int8 and at high resolution.
    """

    def __init__(self, incoming: int, spec: BlockSpec, stride: int, batchnorm: bool) -> None:
        super().__init__()
        s, hidden = spec, spec.hidden
        if s.kind == "fused":
            self.expand = ConvBnAct(incoming, hidden, s.kernel, stride, s.activation, batchnorm=batchnorm)
            self.depthwise = None
        else:
            self.expand = ConvBnAct(incoming, hidden, 1, 1, s.activation, batchnorm=batchnorm)
            self.depthwise = ConvBnAct(hidden, hidden, s.kernel, stride, s.activation, depthwise=True, batchnorm=batchnorm)
        self.se = SqueezeExcite(hidden, s.se) if s.se else None
        self.project = ConvBnAct(hidden, s.width, batchnorm=batchnorm)
        self.add = Add() if s.residual else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, incoming, H, W] -> [N, width, H / stride, W / stride]."""
        y: Tensor = self.expand(x)
        if self.depthwise is not None:
            y = self.depthwise(y)
        if self.se is not None:
            y = self.se(y)
        y = self.project(y)
        return y if self.add is None else self.add(x, y)


class Up(nn.Module):
    """Doubles height and width: a 1x1 convolution and interpolation, or a transposed 2x2 convolution."""

    def __init__(self, incoming: int, width: int, mode: Upsample, batchnorm: bool) -> None:
        super().__init__()
        self.conv = ConvBnAct(incoming, width, batchnorm=batchnorm)
        self.resize: nn.Module = nn.Identity()
        if mode == "deconv":
            self.conv.conv = nn.ConvTranspose2d(incoming, width, 2, 2, bias=not batchnorm)
        else:
            self.resize = nn.Upsample(scale_factor=2, mode=mode, align_corners=False if mode == "bilinear" else None)

    def forward(self, x: Tensor) -> Tensor:
        """[N, incoming, H, W] -> [N, width, 2H, 2W]."""
        out: Tensor = self.resize(self.conv(x))
        return out
