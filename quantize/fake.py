"""Fake quantization: float modules that compute what int8 will, with gradients.

Activations learn their step size (LSQ: Esser et al., "Learned Step Size Quantization", ICLR 2020); weights take theirs from the largest
magnitude of each output channel at every step. While ONNX is exported, both leave a marker node of domain ``MARKER_DOMAIN`` in the graph,
which ``quantize.emit`` replaces by QuantizeLinear / DequantizeLinear. Switched to clamping, activations are cut to what int8 can say
but not rounded, and weights stay float: a float network learns to live within ranges that are learned with it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantize.batchnorm import LiveBatchNorm
from quantize.scheme import ACTIVATIONS, DEAD_CHANNEL, SMALLEST_SCALE, UNSIGNED, WEIGHTS, IntRange, PerChannel, PerTensor

MARKER_DOMAIN = "fake_quant"
STEP_GAIN = 2.0
"""scale = start * exp(STEP_GAIN * log_step): an optimiser that moves weights by 5e-4 a step moves a scale by 0.1 % of itself."""


class _Marker(torch.autograd.Function):
    """The identity; in an exported graph, one node that carries the quantizer's name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        """A copy of ``x``."""
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, name: str) -> Any:
        """The node."""
        out = g.op(f"{MARKER_DOMAIN}::FakeQuant", x, name_s=name)
        out.setType(x.type())
        return out


class ActivationQuantizer(nn.Module):
    """Fake quantization of one activation tensor, per tensor; in steps of its scale the zero point is 0.

    Args:
        name: name of the tensor, unique in its network.
        order: position of the tensor in the order of computation.
        non_negative: the tensor cannot be negative (it follows a ReLU): an unsigned flavour may put its zero point at 0.
        leader: the quantizer whose scale this one shares, e.g. that of an up-sampling's input.
        exact: the values come unchanged from tensors on the leader's grid, so that rounding them again would change nothing.
        unsigned: no tensor of this scale can be negative, and 255 steps are for what is above 0.

    Set from outside: ``is_picture``, where the tensors of this scale are the network's input, moved at most; ``corrects_picture``, where
    the tensor is what is added to that, a picture in grey levels, to make the output, which is rounded to grey levels in turn. A step of
    one grey level makes int8 free for both; another one rounds twice.
    """

    granularity = PerTensor()

    def __init__(
        self,
        name: str,
        order: int,
        non_negative: bool = False,
        leader: ActivationQuantizer | None = None,
        exact: bool = False,
        unsigned: bool = False,
    ) -> None:
        super().__init__()
        self.name, self.order, self.non_negative, self.exact, self.unsigned = name, order, non_negative, exact, unsigned
        self.operator = ""  # ONNX operator that makes the tensor in int8, where that is no convolution
        self._leader = (leader,)  # in a tuple: torch must not register it as a child a second time
        self.reads: tuple[ActivationQuantizer, ...] = ()  # of the tensors that it is made of
        self.is_picture = self.corrects_picture = False
        self._enabled, self._rounds = True, True
        self._zero_point: Tensor
        self.register_buffer("_zero_point", torch.zeros(1), persistent=False)
        if leader is None:
            self.start: Tensor
            self.register_buffer("start", torch.ones(1))
            self.log_step = nn.Parameter(torch.zeros(1))

    @property
    def leader(self) -> ActivationQuantizer:
        """The quantizer that owns the scale: itself unless it shares."""
        return self._leader[0] or self

    @property
    def enabled(self) -> bool:
        """Whether the tensor is rounded; tensors that share a scale are enabled together."""
        return self.leader._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.leader._enabled = value

    @property
    def rounds(self) -> bool:
        """False: an enabled tensor is cut to the range of its scale and not rounded, and the weights behind it stay float."""
        return self.leader._rounds

    @rounds.setter
    def rounds(self, value: bool) -> None:
        self.leader._rounds = value

    @property
    def range(self) -> IntRange:
        """The steps that the tensor may take."""
        return UNSIGNED if self.unsigned else ACTIVATIONS

    @property
    def scale(self) -> Tensor:
        """float32 [1], positive: the size of one integer step."""
        owner = self.leader
        scale: Tensor = owner.start * torch.exp(STEP_GAIN * owner.log_step)
        return scale

    @property
    def start_or_less(self) -> Tensor:
        """The scale, or where it has grown, the one it started from: what speaks against growth is rounding, which a clamp leaves out."""
        owner = self.leader
        smaller: Tensor = owner.start * torch.exp(STEP_GAIN * owner.log_step.clamp_max(0))
        return smaller

    def set_scale(self, scale: float, learnable: bool = True) -> None:
        """Start from this scale, and stay there unless it is learnable; what was learned so far is forgotten."""
        owner = self.leader
        owner.log_step.requires_grad_(learnable)
        with torch.no_grad():
            owner.start.fill_(max(scale, SMALLEST_SCALE))
            owner.log_step.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Round ``x``: float32 of any shape -> the same shape, on the grid of the scale."""
        if not self.enabled:
            return x
        if torch.onnx.is_in_onnx_export():
            marked: Tensor = _Marker.apply(x, self.name)  # type: ignore[no-untyped-call]
            return marked
        if self.exact:
            return x
        factor = (self.range.high * max(1, x.numel() // x.shape[0])) ** -0.5  # LSQ's gradient scale
        if not self.rounds:
            return _clamped(x, self.start_or_less, self.range, factor)
        if not torch.is_grad_enabled():  # the same numbers in a fraction of the time
            return self.rounded(x)
        low, high = self.range.low, self.range.high
        return torch._fake_quantize_learnable_per_tensor_affine(x, self.scale, self._zero_point, low, high, factor)

    def rounded(self, x: Tensor) -> Tensor:
        """``x`` on the grid of the scale, without gradients."""
        return (x / self.scale).round_().clamp_(self.range.low, self.range.high).mul_(self.scale)


def _clamped(x: Tensor, scale: Tensor, steps: IntRange, factor: float) -> Tensor:
    """``x`` cut to ``steps`` of ``scale``; the scale's gradient, which comes from what was cut, is multiplied by ``factor``."""
    slow = scale * factor + (scale * (1 - factor)).detach()
    return torch.clamp(x, slow * steps.low, slow * steps.high)


class WeightQuantization(nn.Module):
    """What the two quantized convolutions share."""

    weight: Tensor
    bias: Tensor | None
    name: str
    granularity: PerChannel
    source: tuple[ActivationQuantizer, ...]
    result: str = ""
    """Name of the int8 tensor that it, or the activation fused with it, makes; empty where none is."""

    @property
    def quantized(self) -> bool:
        """Whether it runs in int8: exactly when its input does."""
        return self.source[0].enabled and self.source[0].rounds

    @property
    def live(self) -> LiveBatchNorm | None:
        """The batch normalisation that is trained with it, if any; it is folded into the weight at every step."""
        return self._modules.get("batchnorm")  # type: ignore[return-value]

    def folded(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are when its input is ``x``: its own, or with live batch normalisation folded in."""
        if self.live is None:
            return self.weight, self.bias
        if self.training:
            self.live.see(self.plain(x, self.weight, None))
        return self.live.fold(self.weight, self.granularity.axis)

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of ``x`` with any weight and bias."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W'], as the float convolution, with the int8 form of the weight."""
        weight, bias = self.folded(x)
        return self.plain(x, self.used(weight), bias)

    def weight_scale(self, weight: Tensor | None = None) -> Tensor:
        """float32 [output channels]: the largest magnitude of each channel over 127, of ``weight`` or its own."""
        weight = self.weight if weight is None else weight
        axis = self.granularity.axis
        other = [d for d in range(weight.ndim) if d != axis]
        scale = weight.detach().abs().amax(other) / WEIGHTS.high
        return scale.clamp_min(SMALLEST_SCALE).maximum(scale.max() * DEAD_CHANNEL)

    def fake_weight(self, weight: Tensor | None = None) -> Tensor:
        """``weight``, or its own, as int8 represents it; gradients pass straight through."""
        weight = self.weight if weight is None else weight
        scale = self.weight_scale(weight)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, self.granularity.axis, WEIGHTS.low, WEIGHTS.high)

    def integer_weight(self) -> Tensor:
        """int8, the shape of the weight."""
        shape = [1] * self.weight.ndim
        shape[self.granularity.axis] = -1
        with torch.no_grad():
            return torch.round(self.fake_weight() / self.weight_scale().reshape(shape)).to(torch.int8)

    def used(self, weight: Tensor) -> Tensor:
        """What the convolution multiplies with: the weight, its int8 form, or its marker while ONNX is exported."""
        if not self.quantized:
            return weight
        if torch.onnx.is_in_onnx_export():
            marked: Tensor = _Marker.apply(weight, f"{self.name}.weight")  # type: ignore[no-untyped-call]
            return marked
        return self.fake_weight(weight)


class QuantConv2d(WeightQuantization, nn.Conv2d):
    """A convolution with int8 weights, per output channel (axis 0)."""

    granularity = PerChannel(0)

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As ``nn.Conv2d``."""
        out: Tensor = self._conv_forward(x, weight, bias)
        return out


class QuantConvTranspose2d(WeightQuantization, nn.ConvTranspose2d):  # type: ignore[misc]  # its forward takes no output_size
    """A transposed convolution with int8 weights, per output channel (axis 1)."""

    granularity = PerChannel(1)

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As ``nn.ConvTranspose2d``."""
        padding: Any = self.padding
        return F.conv_transpose2d(x, weight, bias, self.stride, padding, self.output_padding, self.groups, self.dilation)


def quantized_conv(conv: nn.Conv2d | nn.ConvTranspose2d, name: str, source: ActivationQuantizer) -> QuantConv2d | QuantConvTranspose2d:
    """The int8 form of ``conv`` (its parameters are shared, not copied), fed by the tensor that ``source`` quantizes."""
    cls: Any = QuantConv2d if isinstance(conv, nn.Conv2d) else QuantConvTranspose2d
    out: QuantConv2d | QuantConvTranspose2d = cls.__new__(cls)
    out.__dict__.update(conv.__dict__)  # its sizes, parameters and hooks, whatever torch keeps there
    out.name, out.source = name, (source,)
    return out
