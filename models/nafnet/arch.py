"""NAFNet's declaration."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from models.spec import ArchSpec, Shapes

if TYPE_CHECKING:
    from models.nafnet.network import NAFNet


class NAFNetConfig(BaseModel):
    """Width and depth, under the names of the published YAML files; the defaults are the published GoPro network of width 32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt = Field(default=32, description="channels at full resolution; doubled at every scale")
    enc_blk_nums: tuple[PositiveInt, ...] = Field(default=(1, 1, 1, 28), min_length=1, description="blocks per encoder scale, fine first")
    middle_blk_num: PositiveInt = Field(default=1, description="blocks at the coarsest scale")
    dec_blk_nums: tuple[PositiveInt, ...] = Field(default=(1, 1, 1, 1), min_length=1, description="blocks per decoder scale, coarse first")
    tlc: PositiveInt | None = Field(
        default=None, description="test-time local converter: the training size in pixels (published: 256); null: attention over the image"
    )

    @model_validator(mode="after")
    def _as_many_scales(self) -> Self:
        if len(self.enc_blk_nums) != len(self.dec_blk_nums):
            raise ValueError(f"{len(self.enc_blk_nums)} encoder scales need as many decoder scales, not {len(self.dec_blk_nums)}")
        return self


_SMALL = {"width": 4, "enc_blk_nums": (1, 2), "middle_blk_num": 1, "dec_blk_nums": (1, 1)}


def build(config: NAFNetConfig) -> NAFNet:
    """A freshly initialised network."""
    from models.nafnet.network import NAFNet

    return NAFNet(config.width, config.enc_blk_nums, config.middle_blk_num, config.dec_blk_nums, config.tlc)


def config_of(module: NAFNet) -> dict[str, Any]:
    """The configuration that rebuilds ``module``."""
    encoders: Any = module.encoders
    decoders: Any = module.decoders
    return {
        "width": module.intro.out_channels,
        "enc_blk_nums": [len(scale) for scale in encoders],
        "middle_blk_num": len(module.middle_blks),
        "dec_blk_nums": [len(scale) for scale in decoders],
        "tlc": module.tlc,
    }


_BLOCK = r"(?:beta|gamma|(?:conv[1-5]|sca\.1|norm[12])\.(?:weight|bias))"
_NAME = re.compile(
    rf"(?:(?P<part>encoders|decoders)\.(?P<scale>\d{{1,2}})\.(?P<block>\d{{1,3}})|middle_blks\.(?P<middle>\d{{1,3}}))\.{_BLOCK}"
    r"|downs\.\d+\.(?:weight|bias)|ups\.\d+\.0\.weight|(?:intro|ending)\.(?:weight|bias)"
)


def read(shapes: Shapes) -> dict[str, Any] | None:
    """The configuration behind the weights' names and shapes, or None when most of the names are not NAFNet's.

    The local converter has no weights: ``tlc`` is not among what can be read.
    """
    found = [match for name in shapes if (match := _NAME.fullmatch(name))]
    width = _width(shapes)
    blocks = {part: [m for m in found if m["part"] == part] for part in ("encoders", "decoders")}
    if width is None or 2 * len(found) < len(shapes) or not all(blocks.values()):
        return None
    scales = 1 + max(int(m["scale"]) for part in blocks.values() for m in part)
    return {
        "width": width,
        "enc_blk_nums": [_count(m["block"] for m in blocks["encoders"] if int(m["scale"]) == i) for i in range(scales)],
        "middle_blk_num": _count(m["middle"] for m in found if m["middle"]),
        "dec_blk_nums": [_count(m["block"] for m in blocks["decoders"] if int(m["scale"]) == i) for i in range(scales)],
    }


def _count(indices: Iterable[str]) -> int:
    """Blocks of a scale; one where its weights are missing, so that the loader can name them."""
    return 1 + max(map(int, indices), default=0)


def _width(shapes: Shapes) -> int | None:
    for name, axis in (("intro.weight", 0), ("ending.weight", 1), ("encoders.0.0.norm1.weight", 0)):
        shape = shapes.get(name, ())
        if len(shape) > axis and shape[axis] > 0:
            return int(shape[axis])
    return None


ARCH = ArchSpec(NAFNetConfig, build, config_of, _SMALL, variants={"tlc": {"tlc": 16}}, read=read)
