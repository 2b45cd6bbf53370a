"""Architectures: their declaration, and how one is found by name.

``models/<name>/arch.py`` exports ``ARCH: ArchSpec``; the folder's name is the architecture's name. A network of the user's own is
named by its import path, ``package.module:Class``. Importing this module, or an architecture's ``arch.py``, does not load torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import BaseModel, ValidationError

from pipeline.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

MODELS_DIR = Path(__file__).resolve().parent


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


def known_archs() -> list[str]:
    """Names of the shipped architectures: the folders here that hold an ``arch.py``."""
    return sorted(p.parent.name for p in MODELS_DIR.glob("*/arch.py"))


def load_arch(name: str) -> ArchSpec:
    """The architecture ``models/<name>``, or the user's own class behind ``package.module:Class``.

    Raises:
        UsageError: no such architecture, or the path names no ``nn.Module`` class.
    """
    if "." in name or ":" in name:
        from models.imported import imported_arch

        return imported_arch(name)
    if name not in known_archs():
        raise UsageError("arch", f"unknown architecture '{name}'", did_you_mean(name, known_archs()))
    return cast(ArchSpec, importlib.import_module(f"models.{name}.arch").ARCH)


def parse_config(name: str, config: Mapping[str, Any]) -> Any:
    """The architecture's configuration, checked.

    Raises:
        UsageError: an unknown key (with a suggestion), a missing one or a wrong value.
    """
    spec = load_arch(name)
    try:
        return spec.config.model_validate(dict(config))
    except ValidationError as e:
        raise _usage_error(name, spec.config, e) from e


def build(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A freshly initialised network of architecture ``name``; raises UsageError as ``parse_config`` does."""
    return load_arch(name).build(parse_config(name, config))


def size_multiple(module: nn.Module) -> int:
    """What height and width of a network's input must be multiples of; 1 for a module that does not say."""
    value = getattr(module, "size_multiple", 1)
    return value if isinstance(value, int) else 1


def _usage_error(name: str, model: type[BaseModel], error: ValidationError) -> UsageError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    where = f"config of {name}: {path}" if path else f"config of {name}"
    if first["type"] == "extra_forbidden":
        return UsageError(where, "unknown key", did_you_mean(str(first["loc"][-1]), model.model_fields))
    return UsageError(where, f"{first['msg']} (got {first['input']!r:.80})", f"keys: {', '.join(model.model_fields)}")


def code_of(arch: str) -> tuple[str, ...]:
    """The modules that an architecture's name brings with it, for the key of a cached result: none for those in ``models/``."""
    module_name, _, name = arch.partition(":")
    return (module_name,) if name else ()
