"""MIMO-UNet's declaration."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from models.spec import ArchSpec, Shapes

if TYPE_CHECKING:
    from models.mimounet.adapter import MIMOUNetRestorer

Variant = Literal["official", "cfa_frm"]


class MIMOUNetConfig(BaseModel):
    """Which network and how large; the defaults are MIMO-UNet+. MIMO-UNet: ``num_res: 8`` and ``dropout: 0``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Variant = Field(
        default="official", description="official: the published graph; cfa_frm: cross-scale aggregation, recalibrated skips, batchnorm"
    )
    num_res: PositiveInt = Field(default=20, description="residual blocks per stage")
    base_channel: int = Field(default=32, ge=2, description="channels at full resolution; doubled at every scale")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of the skips' channels that is dropped in training")
    batchnorm: bool = Field(default=True, description="of cfa_frm; false: folded into the convolutions, which then have a bias")

    @model_validator(mode="after")
    def _batchnorm_is_there(self) -> Self:
        if self.variant == "official" and not self.batchnorm:
            raise ValueError("the official network has no batch normalisation: leave 'batchnorm' out")
        return self


_SMALL = {"num_res": 1, "base_channel": 4, "dropout": 0.0}
_PLUS = 20
"""Residual blocks per stage of MIMO-UNet+, which alone of the published networks has dropout."""


def build(config: MIMOUNetConfig) -> MIMOUNetRestorer:
    """A freshly initialised network."""
    from models.mimounet.adapter import MIMOUNetRestorer
    from models.mimounet.cfa_frm import CfaFrmUNet
    from models.mimounet.network import MIMOUNet

    if config.variant == "cfa_frm":
        return MIMOUNetRestorer(CfaFrmUNet(config.num_res, config.base_channel, config.dropout, config.batchnorm))
    return MIMOUNetRestorer(MIMOUNet(config.num_res, config.base_channel, config.dropout))


def config_of(module: MIMOUNetRestorer) -> dict[str, Any]:
    """The configuration that rebuilds ``module``."""
    from models.mimounet.network import MIMOUNet

    network: Any = module.network
    official = isinstance(network, MIMOUNet)
    if official:
        stem, stage, dropout = network.feat_extract[0].main[0], network.Encoder[0].layers, network.drop1.p
        return {"variant": "official", "num_res": len(stage), "base_channel": stem.out_channels, "dropout": dropout}
    stem = network.stems[0][0]
    sizes = {"num_res": len(network.encoders[0]), "base_channel": stem.out_channels, "dropout": network.drop.p}
    return {"variant": "cfa_frm", **sizes, "batchnorm": stem.bias is None}


def read(shapes: Shapes) -> dict[str, Any] | None:
    """The configuration of weights with these names and shapes; None when fewer than half of the network's names are there.

    Of dropout, which leaves no trace in weights, the published value is given.
    """
    config = _read_official(shapes) or _read_cfa_frm(shapes)
    if config is None or 12 * config["num_res"] > len(shapes):  # a residual block per stage has 24 tensors or more
        return None
    wanted = _names(config)
    return config if 2 * len(wanted & set(shapes)) >= len(wanted) else None


def _read_official(shapes: Shapes) -> dict[str, Any] | None:
    stages = _stages(shapes, ("Encoder", "layers")) + _stages(shapes, ("Decoder", "layers"))
    if not stages:
        return None
    num_res = len({block for _, block, _ in stages})
    base = Counter(width >> int(scale) for scale, _, width in _stages(shapes, ("Encoder", "layers")))
    return {"variant": "official", "num_res": num_res, "base_channel": _common(base), "dropout": 0.1 if num_res == _PLUS else 0.0}


def _read_cfa_frm(shapes: Shapes) -> dict[str, Any] | None:
    stages = _stages(shapes, ("encoders",)) + _stages(shapes, ("decoders",))
    if not stages:
        return None
    base = Counter(width >> int(scale) for scale, _, width in stages)
    sizes = {"num_res": len({block for _, block, _ in stages}), "base_channel": _common(base), "dropout": 0.1}
    return {"variant": "cfa_frm", **sizes, "batchnorm": any(name.endswith("running_mean") for name in shapes)}


def _stages(shapes: Shapes, path: tuple[str, ...]) -> list[tuple[str, str, int]]:
    """(scale, block, channels) of the tensors in residual blocks, ``<path[0]>.<scale>.<path[1:]>.<block>.main...``."""
    found = []
    for name, shape in shapes.items():
        head, scale, *rest = [*name.split("."), ""]
        inner, tail = rest[: len(path) - 1], rest[len(path) - 1 :]
        named = (head, *inner) == path and scale in {"0", "1", "2"} and tail[1:2] == ["main"]
        if named and tail[0].isascii() and tail[0].isdigit() and shape:
            found.append((scale, tail[0], int(shape[0])))
    return found


def _common(counts: Counter[int]) -> int:
    """The value that most tensors speak for: a few damaged ones do not matter."""
    usable = [value for value, _ in counts.most_common() if value >= 2]
    return usable[0] if usable else 32


def _names(config: dict[str, Any]) -> set[str]:
    import torch

    with torch.device("meta"):
        network = build(MIMOUNetConfig.model_validate({**config, "base_channel": 4})).network  # names are the same at any width
    return {name for name in network.state_dict() if not name.endswith("num_batches_tracked")}


ARCH = ArchSpec(
    MIMOUNetConfig, build, config_of, _SMALL, variants={"cfa_frm": {"variant": "cfa_frm"}}, read=read, official=lambda m: m.network
)
