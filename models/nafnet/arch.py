"""NAFNet's declaration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from models.arch import ArchSpec

if TYPE_CHECKING:
    from models.nafnet.network import NAFNet


class NAFNetConfig(BaseModel):
    """Width and depth, under the names of the published YAML files; the defaults are the published GoPro network of width 32."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: PositiveInt = Field(default=32, description="channels at full resolution; doubled at every scale")
    enc_blk_nums: tuple[PositiveInt, ...] = Field(default=(1, 1, 1, 28), min_length=1, description="blocks per encoder scale, fine first")
    middle_blk_num: PositiveInt = Field(default=1, description="blocks at the coarsest scale")
    dec_blk_nums: tuple[PositiveInt, ...] = Field(default=(1, 1, 1, 1), min_length=1, description="blocks per decoder scale, coarse first")

    @model_validator(mode="after")
    def _as_many_scales(self) -> Self:
        if len(self.enc_blk_nums) != len(self.dec_blk_nums):
            raise ValueError(f"{len(self.enc_blk_nums)} encoder scales need as many decoder scales, not {len(self.dec_blk_nums)}")
        return self


_SMALL = {"width": 4, "enc_blk_nums": (1, 2), "middle_blk_num": 1, "dec_blk_nums": (1, 1)}


def build(config: NAFNetConfig) -> NAFNet:
    """A freshly initialised network."""
    from models.nafnet.network import NAFNet

    return NAFNet(config.width, config.enc_blk_nums, config.middle_blk_num, config.dec_blk_nums)


def config_of(module: NAFNet) -> dict[str, Any]:
    """The configuration that rebuilds ``module``."""
    encoders: Any = module.encoders
    decoders: Any = module.decoders
    return {
        "width": module.intro.out_channels,
        "enc_blk_nums": [len(scale) for scale in encoders],
        "middle_blk_num": len(module.middle_blks),
        "dec_blk_nums": [len(scale) for scale in decoders],
    }


ARCH = ArchSpec(NAFNetConfig, build, config_of, _SMALL)
