"""SRN-DeblurNet's declaration."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from models.spec import ArchSpec, Shapes

if TYPE_CHECKING:
    from models.srn.adapter import SRNRestorer

_CHANNELS = (32, 64, 128)


class SRNConfig(BaseModel):
    """Widths; the defaults are the published ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=_CHANNELS, description="channels at full, half and quarter size of the input"
    )
    pyramid: Literal["bilinear", "antialias"] = Field(
        default="bilinear", description="how the coarser inputs are made: 2x2 means, or as Pillow reduces, which the published training did"
    )


_SMALL = {"channels": (2, 3, 4)}


def build(config: SRNConfig) -> SRNRestorer:
    """A freshly initialised network."""
    from models.srn.adapter import SRNRestorer
    from models.srn.network import SRNDeblurNet

    return SRNRestorer(SRNDeblurNet(config.channels), config.pyramid)


def config_of(module: SRNRestorer) -> dict[str, Any]:
    """The configuration that rebuilds ``module``."""
    network: Any = module.network
    widths = [block.conv[0].out_channels for block in (network.inblock, network.eblock1, network.eblock2)]
    return {"channels": widths, "pyramid": module.pyramid}


def read(shapes: Shapes) -> dict[str, Any] | None:
    """The configuration of weights with these names and shapes; None when fewer than half of the network's names are there."""
    wanted = _names()
    if 2 * len(wanted & set(shapes)) < len(wanted):
        return None
    return {"channels": [_width(shapes, block, usual) for block, usual in zip(("inblock", "eblock1", "eblock2"), _CHANNELS, strict=True)]}


def _width(shapes: Shapes, block: str, usual: int) -> int:
    """The width that most of the block's tensors speak for: a few damaged ones do not matter."""
    counts = Counter(int(shape[0]) for name, shape in shapes.items() if name.startswith(f"{block}.") and shape and shape[0] >= 1)
    return counts.most_common(1)[0][0] if counts else usual


@cache
def _names() -> frozenset[str]:
    import torch

    with torch.device("meta"):
        return frozenset(build(SRNConfig()).network.state_dict())


ARCH = ArchSpec(
    SRNConfig, build, config_of, _SMALL, {"antialias": {"pyramid": "antialias"}}, read=read, official=lambda module: module.network
)
