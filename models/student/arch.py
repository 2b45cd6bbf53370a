"""The student's declaration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.spec import ArchSpec
from models.student.config import NetworkSpec, StudentConfig

if TYPE_CHECKING:
    from models.student.blocks import Block
    from models.student.network import DecoderScale, Student

_SMALL = {"widths": (8, 16, 16), "depths": (1, 1, 2)}


def build(config: StudentConfig) -> Student:
    """A freshly initialised student."""
    from models.student.network import Student

    return Student(config.exact())


def config_of(module: Student) -> dict[str, Any]:
    """``{"network": ...}``: the exact configuration, its widths read from the convolutions as they are now."""
    stem, head = module.stem, module.head
    encoder: Any = module.encoder
    network = {
        "unshuffle": module.unshuffle.factor,
        "batchnorm": stem.conv.bias is None,
        "stem": {"width": stem.conv.out_channels, "kernel": stem.conv.kernel_size[0], "activation": _activation(stem.act)},
        "encoder": [[_block(block) for block in scale] for scale in encoder],
        "decoder": [_decoder_scale(scale) for scale in module.decoder],  # type: ignore[arg-type] # nn.ModuleList forgets its class
        "head_kernel": head.kernel_size[0],
    }
    return {"network": NetworkSpec.model_validate(network).model_dump(mode="json")}


def _block(block: Block) -> dict[str, Any]:
    spatial = block.expand if block.depthwise is None else block.depthwise
    return {
        "kind": "fused" if block.depthwise is None else "inverted_residual",
        "width": block.project.conv.out_channels,
        "hidden": block.expand.conv.out_channels,
        "kernel": spatial.conv.kernel_size[0],
        "activation": _activation(block.expand.act),
        "se": block.se.reduce.out_channels if block.se is not None else 0,
        "residual": block.add is not None,
    }


def _decoder_scale(scale: DecoderScale) -> dict[str, Any]:
    from models.student.blocks import Concat

    concat = isinstance(scale.join, Concat)
    merge: Any = scale.merge
    blocks: Any = scale.blocks
    return {
        "upsample": getattr(scale.up.resize, "mode", "deconv"),
        "width": scale.up.conv.conv.out_channels,
        "skip": "concat" if concat else "add",
        "merge": merge.conv.out_channels if concat else 0,
        "activation": _activation(merge.act) if concat else None,
        "blocks": [_block(block) for block in blocks],
    }


def _activation(module: object) -> str:
    from models.student.blocks import ACTIVATIONS

    return next(name for name, cls in ACTIVATIONS.items() if type(module) is cls)


ARCH = ArchSpec(StudentConfig, build, config_of, _SMALL)
