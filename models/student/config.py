"""The student's configuration: a compact form that people write, and the exact form that a checkpoint holds."""

from __future__ import annotations

from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

T = TypeVar("T")
BlockKind = Literal["inverted_residual", "fused"]
Activation = Literal["hardswish", "relu", "relu6"]
Upsample = Literal["bilinear", "nearest", "deconv"]
Skip = Literal["add", "concat"]
Kernel = Literal[1, 3, 5, 7]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BlockSpec(_Model):
    """One block. Its stride is 2 where it enters a coarser scale, and 1 elsewhere."""

    kind: BlockKind = Field(description="inverted_residual: 1x1, depthwise, 1x1; fused: dense kxk, 1x1")
    width: PositiveInt = Field(description="channels that it returns")
    hidden: PositiveInt = Field(description="channels inside")
    kernel: Kernel = Field(description="size of the depthwise (or the dense) convolution")
    activation: Activation = Field(description="activation behind the convolutions but the last")
    se: NonNegativeInt = Field(description="inner channels of squeeze-and-excite; 0: none")
    residual: bool = Field(description="whether the input is added to the output")


class StemSpec(_Model):
    """The first convolution, behind the pixel-unshuffle."""

    width: PositiveInt = Field(description="channels that it returns")
    kernel: Kernel = Field(description="size of the convolution")
    activation: Activation = Field(description="activation behind it")


class DecoderSpec(_Model):
    """One scale of the decoder: up-sample by 2, merge with the encoder's features, refine."""

    upsample: Upsample = Field(description="how height and width are doubled")
    width: PositiveInt = Field(description="channels that the up-sampling returns")
    skip: Skip = Field(description="how the encoder's features are merged")
    merge: NonNegativeInt = Field(description="channels of the 1x1 convolution behind a concatenation; 0 where the skip is added")
    activation: Activation | None = Field(description="activation behind the merging convolution; none where the skip is added")
    blocks: tuple[BlockSpec, ...] = Field(description="blocks behind the merge")


class NetworkSpec(_Model):
    """The exact network: every width as it is, pruned or not."""

    unshuffle: Literal[1, 2, 4] = Field(description="pixel-unshuffle factor of the stem")
    batchnorm: bool = Field(description="false: folded into the convolutions, which then have a bias")
    stem: StemSpec = Field(description="the first convolution")
    encoder: tuple[tuple[BlockSpec, ...], ...] = Field(min_length=2, description="blocks per scale, fine first")
    decoder: tuple[DecoderSpec, ...] = Field(description="scales of the decoder, coarse first")
    head_kernel: Kernel = Field(description="size of the last convolution")

    @model_validator(mode="after")
    def _scales_fit(self) -> Self:
        if len(self.decoder) != len(self.encoder) - 1:
            raise ValueError(f"{len(self.encoder)} scales need {len(self.encoder) - 1} decoder scales, not {len(self.decoder)}")
        if any(not blocks for blocks in self.encoder[1:]):
            raise ValueError("a coarser scale needs at least one block")
        return self


class StudentConfig(_Model):
    """A student in a few lines: one entry per scale, fine first. ``network`` is what checkpoints hold instead of all the rest.

    The default suits int8: every width is a multiple of 32 (tensor cores and dot-product kernels work on such groups), dense blocks
    where the picture is large, depthwise ones with squeeze-and-excite where it is small, ReLU throughout.
    """

    widths: tuple[PositiveInt, ...] = Field(default=(32, 64, 96), min_length=2, description="channels per scale")
    depths: tuple[NonNegativeInt, ...] = Field(default=(1, 2, 3), description="encoder blocks per scale, the strided one included")
    decoder_depths: tuple[NonNegativeInt, ...] | NonNegativeInt = Field(
        default=1, description="the same for the decoder: one value, or one per scale but the coarsest"
    )
    expand: tuple[PositiveFloat, ...] | PositiveFloat | None = Field(
        default=None, description="hidden over incoming channels; one value or one per scale; by default 1 in fused blocks and 2 in others"
    )
    kernels: tuple[Kernel, ...] | Kernel = Field(default=3, description="kernel size; one value or one per scale")
    high_block: BlockKind = Field(default="fused", description="kind of block at the fine scales")
    low_block: BlockKind = Field(default="inverted_residual", description="kind of block at the coarse scales")
    high_scales: NonNegativeInt = Field(default=2, description="how many scales count as fine")
    se_from: NonNegativeInt = Field(default=2, description="first scale (0 is the finest) with squeeze-and-excite; beyond the last: none")
    se_reduction: PositiveInt = Field(default=4, description="hidden channels over the inner channels of squeeze-and-excite")
    activation: Activation = Field(default="relu", description="hardswish is the paper's; relu is far faster in int8")
    unshuffle: Literal[1, 2, 4] = Field(default=2, description="pixel-unshuffle factor of the stem")
    upsample: Upsample = Field(default="bilinear", description="how the decoder doubles height and width")
    skip: Skip = Field(default="add", description="how the decoder merges the encoder's features")
    stem_kernel: Kernel = Field(default=3, description="size of the first convolution")
    head_kernel: Kernel = Field(default=3, description="size of the last convolution")
    network: NetworkSpec | None = Field(default=None, description="the exact network; excludes every other key")

    @model_validator(mode="after")
    def _lengths_fit(self) -> Self:
        if self.network is not None:
            if self.model_fields_set != {"network"}:
                raise ValueError("'network' is the exact network: remove the other keys")
            return self
        scales = len(self.widths)
        wanted = {"depths": scales, "decoder_depths": scales - 1, "expand": scales, "kernels": scales}
        for name, length in wanted.items():
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != length:
                raise ValueError(f"{scales} widths need {length} {name}, not {len(value)}")
        if 0 in self.depths[1:]:
            raise ValueError("every scale but the finest needs at least one block: raise its depth to 1")
        return self

    def exact(self) -> NetworkSpec:
        """The network that this configuration describes."""
        return self.network or _expand(self)


def round_to_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8."""
    return max(8, int(channels + 4) // 8 * 8)


def _expand(c: StudentConfig) -> NetworkSpec:
    encoder, incoming = [], c.widths[0]
    for scale, depth in enumerate(c.depths):
        blocks = []
        for index in range(depth):
            blocks.append(_block(c, scale, incoming, strided=bool(scale) and not index))
            incoming = c.widths[scale]
        encoder.append(tuple(blocks))
    return NetworkSpec(
        unshuffle=c.unshuffle,
        batchnorm=True,
        stem=StemSpec(width=c.widths[0], kernel=c.stem_kernel, activation=c.activation),
        encoder=tuple(encoder),
        decoder=tuple(_decoder_scale(c, scale) for scale in reversed(range(len(c.widths) - 1))),
        head_kernel=c.head_kernel,
    )


def _decoder_scale(c: StudentConfig, scale: int) -> DecoderSpec:
    width = c.widths[scale]
    return DecoderSpec(
        upsample=c.upsample,
        width=width,
        skip=c.skip,
        merge=width if c.skip == "concat" else 0,
        activation=c.activation if c.skip == "concat" else None,
        blocks=tuple(_block(c, scale, width, strided=False) for _ in range(_at(c.decoder_depths, scale))),
    )


def _block(c: StudentConfig, scale: int, incoming: int, strided: bool) -> BlockSpec:
    kind = c.high_block if scale < c.high_scales else c.low_block
    expand = _at(c.expand, scale) if c.expand is not None else (1 if kind == "fused" else 2)
    hidden = round_to_8(incoming * expand)
    return BlockSpec(
        kind=kind,
        width=c.widths[scale],
        hidden=hidden,
        kernel=_at(c.kernels, scale),
        activation=c.activation,
        se=round_to_8(hidden / c.se_reduction) if scale >= c.se_from else 0,
        residual=not strided,
    )


def _at(values: tuple[T, ...] | T, scale: int) -> T:
    return values[scale] if isinstance(values, tuple) else values
