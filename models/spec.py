"""What an architecture declares, and what every network of the pipeline offers. Importing this does not load torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
"""The tensors of a state dict: name -> shape."""

Padding = Literal["reflect", "replicate", "zero"]
"""How an image is extended, right and bottom, to a size that a network takes."""


class Network(Protocol):
    """What every network of the pipeline offers beside being an ``nn.Module``.

    Two more are optional: ``padding`` (``Padding``; reflect without it), and ``outputs(lq)`` of networks that restore at several
    scales: a list of images in [0, 1], full size first, each half the one before.
    """

    size_multiple: int
    """Height and width of the input must be multiples of this."""

    def __call__(self, lq: Tensor) -> Tensor:
        """Restore ``lq``: float32 [N, 3, H, W] in [0, 1], RGB; returns the same shape, unclamped."""

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the features of the encoder's scales and of the bottleneck, coarse last."""


@dataclass(frozen=True, slots=True)
class ArchSpec:
    """An architecture's declaration.

    config     pydantic model of its configuration (extra keys forbidden)
    build      config -> freshly initialised network
    config_of  network -> configuration that rebuilds it with the channel widths it has now, pruned or not
    small      a configuration of the smallest network that has all of its parts, for quick checks
    variants   further small configurations by name, e.g. {"fpn_unet": {...}}: the same checks hold for them
    read       names and shapes of published weights (no ``module.``, no ``num_batches_tracked``) -> the configuration that they were
               trained with, or None when they are not this architecture's
    official   network -> the part of it that has the published names, input range and outputs; by default the network itself
    """

    config: type[BaseModel]
    build: Callable[[Any], nn.Module]
    config_of: Callable[[Any], dict[str, Any]]
    small: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    read: Callable[[Shapes], dict[str, Any] | None] = lambda shapes: None
    official: Callable[[Any], nn.Module] = lambda network: network


def size_multiple(module: nn.Module) -> int:
    """What height and width of a network's input must be multiples of; 1 for a module that does not say."""
    value = getattr(module, "size_multiple", 1)
    return value if isinstance(value, int) else 1


def padding_of(module: nn.Module) -> Padding:
    """How a network's input is extended; mirrored for a module that does not say."""
    value: Any = getattr(module, "padding", "reflect")
    known: Padding = value if value in get_args(Padding) else "reflect"
    return known
