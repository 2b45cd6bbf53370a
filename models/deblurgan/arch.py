"""DeblurGAN's declaration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from models.spec import ArchSpec, Shapes

if TYPE_CHECKING:
    from torch import nn

    from models.deblurgan.adapter import DeblurGANRestorer


class DeblurGANConfig(BaseModel):
    """Which generator; the defaults are the published one, as the released weights have it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Literal["resnet", "fpn_unet"] = Field(
        default="resnet", description="resnet: the published generator; fpn_unet: U-Net with a dilated feature pyramid and no checkerboard"
    )
    ngf: PositiveInt = Field(default=64, description="channels of the first convolution")
    n_blocks: PositiveInt = Field(default=9, description="residual blocks (resnet)")
    use_dropout: bool = Field(default=True, description="dropout in the blocks, in training (resnet)")
    convs: Literal[1, 2] = Field(
        default=2, description="convolutions per block (resnet); 1: weights trained with the repository's later state"
    )
    statistics: Literal["instance", "running"] = Field(
        default="instance",
        description="what normalises outside training; instance: the image's own mean and variance, as the official test script; "
        "running: the averages gathered in training, constants that fold into the convolutions",
    )


_SMALL = {"ngf": 4, "n_blocks": 2, "use_dropout": False}
_VARIANTS: dict[str, dict[str, Any]] = {
    "oneconv": {"convs": 1},
    "running": {"statistics": "running"},
    "fpn_unet": {"variant": "fpn_unet", "ngf": 2},
    "fpn_unet-running": {"variant": "fpn_unet", "ngf": 2, "statistics": "running"},
}


def build(config: DeblurGANConfig) -> DeblurGANRestorer:
    """A freshly initialised network."""
    from models.deblurgan.adapter import DeblurGANRestorer
    from models.deblurgan.fpn_unet import FPNUNet
    from models.deblurgan.network import ResnetGenerator

    if config.variant == "fpn_unet":
        return DeblurGANRestorer(FPNUNet(config.ngf, config.statistics))
    return DeblurGANRestorer(ResnetGenerator(config.ngf, config.n_blocks, config.use_dropout, config.convs, config.statistics))


def config_of(module: DeblurGANRestorer) -> dict[str, Any]:
    """The configuration that rebuilds ``module``."""
    from torch import nn

    from models.deblurgan.fpn_unet import FPNUNet
    from models.deblurgan.network import ResnetBlock
    from models.deblurgan.norm import InstanceNorm2d

    network = module.network
    statistics = next(m.statistics for m in network.modules() if isinstance(m, InstanceNorm2d))
    ngf = next(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    if isinstance(network, FPNUNet):
        return {"variant": "fpn_unet", "ngf": ngf, "statistics": statistics}
    blocks = [m for m in network.modules() if isinstance(m, ResnetBlock)]
    return {
        "variant": "resnet",
        "ngf": ngf,
        "n_blocks": len(blocks),
        "use_dropout": any(isinstance(m, nn.Dropout) for m in blocks[0].modules()),
        "convs": sum(isinstance(m, nn.Conv2d) for m in blocks[0].modules()),
        "statistics": statistics,
    }


def read(shapes: Shapes) -> dict[str, Any] | None:
    """The configuration behind published weights, but for ``statistics``, which no file tells; None for another network's weights.

    With one convolution per block, nothing in the file tells whether there was dropout; it is taken as on, as the repository's
    options have it.
    """
    return _read_resnet(shapes) or _read_fpn_unet(shapes)


_BLOCK = re.compile(r"model\.(\d{2})\.conv_block\.([1-7])\.(?:weight|bias|running_mean|running_var)")
_OUTER = re.compile(r"model\.\d{1,3}\.(?:weight|bias|running_mean|running_var)")


def _read_resnet(shapes: Shapes) -> dict[str, Any] | None:
    blocks = [match for match in map(_BLOCK.fullmatch, map(str, shapes)) if match]
    outer = [match for match in map(_OUTER.fullmatch, map(str, shapes)) if match]
    ngf = _ngf(shapes, [("model.1.weight", 0, 1), ("model.4.weight", 0, 2), *((m.string, 0, 4) for m in blocks)])
    if not blocks or not ngf or 2 * (len(blocks) + len(outer)) < len(shapes):
        return None
    places = {match[2] for match in blocks}
    convs = 2 if places & {"5", "6", "7"} else 1
    return {
        "variant": "resnet",
        "ngf": ngf,
        "n_blocks": max(1, max(int(match[1]) for match in blocks) - 9),
        "use_dropout": convs == 1 or "7" in places or "5" not in places,
        "convs": convs,
    }


_FPN = re.compile(r"(?:(?:down|up)\.[0-6]\.|pyramid\.(?:fine|coarse)\.)(?:conv|norm)\.\w+|(?:pyramid\.reduce|head)\.(?:weight|bias)")


def _read_fpn_unet(shapes: Shapes) -> dict[str, Any] | None:
    found = [name for name in map(str, shapes) if _FPN.fullmatch(name)]
    ngf = _ngf(shapes, [("down.0.conv.weight", 0, 1), ("pyramid.reduce.weight", 0, 4), ("down.1.conv.weight", 0, 2)])
    if not ngf or not any(name.startswith("pyramid.") for name in found) or 2 * len(found) < len(shapes):
        return None
    return {"variant": "fpn_unet", "ngf": ngf}


def _ngf(shapes: Shapes, places: list[tuple[str, int, int]]) -> int | None:
    """The width that the first usable one of ``places`` (name, axis, multiple of the width) tells."""
    for name, axis, multiple in places:
        shape = tuple(shapes.get(name, ()))
        if len(shape) == 4 and int(shape[axis]) >= multiple:
            return int(shape[axis]) // multiple
    return None


def official(module: DeblurGANRestorer) -> nn.Module:
    """The generator itself: images in [-1, 1]."""
    return module.network


ARCH = ArchSpec(DeblurGANConfig, build, config_of, _SMALL, _VARIANTS, read, official)
