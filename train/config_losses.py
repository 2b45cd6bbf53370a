"""Settings of a loss made of several terms. Importing this does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.errors import did_you_mean

TermName = Literal["l1", "charbonnier", "mse", "psnr", "fft", "perceptual"]
"""The losses in ``train.losses``, and the distance between the features of VGG19."""

Reduction = Literal["bilinear", "antialias", "nearest", "bicubic"]
"""How images are made smaller: as MIMO-UNet's training does it (bilinear), as PIL does (antialias), every second pixel, or bicubic."""

InputRange = Literal["imagenet", "signed", "unit"]
"""What VGG19 is given: colours normalised as it was trained, values in [-1, 1], or values in [0, 1]."""


def _vgg19_layers() -> dict[str, int]:
    layers, index = {}, 0
    for block, convolutions in enumerate((2, 2, 4, 4, 4), start=1):
        for i in range(1, convolutions + 1):
            layers[f"conv{block}_{i}"], layers[f"relu{block}_{i}"] = index, index + 1
            index += 2
        index += 1  # the pooling behind the block
    return layers


VGG19_LAYERS: Mapping[str, int] = MappingProxyType(_vgg19_layers())
"""The layers of VGG19 by their usual names -> their index in torchvision's ``features``."""

_PERCEPTUAL_ONLY = ("layer", "range", "weights")


class LossTerm(BaseModel):
    """One term of a loss: a distance to the sharp image, and how much it counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TermName = Field(description="distance between images")
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="factor of this term")
    scales: Literal["full", "all"] = Field(
        default="full", description="all: the sum over every scale that the network restores; full: the full size alone"
    )
    reduce: Reduction = Field(default="bilinear", description="how the sharp image is made smaller for 'scales: all'")
    weights: Path | None = Field(
        default=None,
        description="perceptual: VGG19's weights, torchvision's vgg19-dcbb9e9d.pth",
        json_schema_extra={"hint": "download https://download.pytorch.org/models/vgg19-dcbb9e9d.pth there, or give its path"},
    )
    layer: str = Field(default="relu3_3", description="perceptual: layer whose features are compared, conv1_1 to relu5_4")
    range: InputRange = Field(default="imagenet", description="perceptual: colours normalised for ImageNet, or in [-1, 1], or in [0, 1]")

    @field_validator("layer")
    @classmethod
    def _known_layer(cls, value: str) -> str:
        if value not in VGG19_LAYERS:
            raise ValueError(f"VGG19 has no layer '{value}'; {did_you_mean(value, VGG19_LAYERS)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.name == "perceptual" and self.weights is None:
            raise ValueError("a perceptual term needs 'weights', the file of VGG19's weights (torchvision's vgg19-dcbb9e9d.pth)")
        foreign = [name for name in _PERCEPTUAL_ONLY if getattr(self, name) != type(self).model_fields[name].default]
        if self.name != "perceptual" and foreign:
            raise ValueError(f"'{foreign[0]}' goes with 'name: perceptual' alone")
        return self


class Adversarial(BaseModel):
    """A critic that is trained against the network, and how much its judgement counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="factor of the adversarial term in the network's loss")
    kind: Literal["wgan-gp", "gan", "lsgan"] = Field(
        default="wgan-gp", description="Wasserstein distance with gradient penalty, cross-entropy, or squared error"
    )
    steps: int = Field(default=5, ge=1, description="optimizer steps of the critic before each of the network")
    penalty: float = Field(default=10.0, ge=0, allow_inf_nan=False, description="wgan-gp: factor of the gradient penalty (lambda)")
    penalty_over: Literal["pixel", "image"] = Field(
        default="pixel",
        description="wgan-gp: gradients are to have norm 1 at every pixel (DeblurGAN's code) or per image (the WGAN-GP paper)",
    )
    lr: float = Field(default=1e-4, gt=0, allow_inf_nan=False, description="the critic's peak learning rate; it follows the schedule")
    betas: tuple[float, float] = Field(default=(0.5, 0.999), description="betas of the critic's Adam")
    critic: Literal["patchgan", "article"] = Field(
        default="patchgan", description="DeblurGAN's critic, or the wider one with a 7x7 stem that an article describes"
    )
    channels: int = Field(default=64, ge=1, description="channels of the critic's first layer")
    layers: int = Field(default=3, ge=1, le=8, description="patchgan: how many of its layers double the channels; 3 judge 70 x 70 pixels")
