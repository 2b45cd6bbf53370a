"""DMCNN's declaration."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from models.spec import ArchSpec, Shapes

if TYPE_CHECKING:
    from models.dmcnn.adapter import DMCNNRestorer


class DMCNNConfig(BaseModel):
    """Widths and the dynamic kernel; the source names neither, so that the defaults are a choice of this project."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[PositiveInt, ...] = Field(
        default=(32, 64, 128, 256), min_length=3, description="channels per scale, fine first; the last is the bottleneck's"
    )
    kernel: PositiveInt = Field(default=3, description="side of the per-pixel kernels of the dynamic convolution, odd")

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"the kernel needs a centre: an odd side, not {self.kernel}")
        return self


_SMALL = {"widths": (4, 8, 12)}


def build(config: DMCNNConfig) -> DMCNNRestorer:
    """A freshly initialised network."""
    from models.dmcnn.adapter import DMCNNRestorer
    from models.dmcnn.network import DMCNN

    return DMCNNRestorer(DMCNN(config.widths, config.kernel))


def config_of(module: DMCNNRestorer) -> dict[str, Any]:
    """The configuration that rebuilds ``module``."""
    network = module.network
    downs: Any = network.downs
    return {"widths": [network.stem.out_channels, *(down.out_channels for down in downs)], "kernel": network.dynamic.kernel}


_NAME = re.compile(
    r"(?:(?:encoders|decoders)\.\d{1,2}|bottleneck)\.(?:first|second|attention\.conv)\.(?:weight|bias)"
    r"|skips\.\d{1,2}\.conv\.(?:weight|bias)|(?:downs\.\d{1,2}|ups\.\d{1,2}\.0|stem|head|dynamic\.generate)\.(?:weight|bias)"
)


def read(shapes: Shapes) -> dict[str, Any] | None:
    """The configuration behind the weights' names and shapes, or None when most of the names are not DMCNN's."""
    found = [name for name in shapes if _NAME.fullmatch(name)]
    generate = shapes.get("dynamic.generate.weight", ())
    stem = shapes.get("stem.weight", ())
    if not generate or not stem or 2 * len(found) < len(shapes):
        return None
    widths = [stem[0]]
    while down := shapes.get(f"downs.{len(widths) - 1}.weight"):
        widths.append(down[0])
    channels = generate[1] if len(generate) > 1 else 0
    kernel = math.isqrt(generate[0] // channels) if channels > 0 else 0
    config = {"widths": [int(width) for width in widths], "kernel": int(kernel)}
    possible = len(widths) >= 3 and min(widths) > 0 and kernel % 2 == 1
    return config if possible else None


ARCH = ArchSpec(
    DMCNNConfig,
    build,
    config_of,
    _SMALL,
    variants={"kernel5": {"kernel": 5}},
    read=read,
    official=lambda module: module.network,
)
