"""Architectures: how one is found by name.

``models/<name>/arch.py`` exports ``ARCH: ArchSpec``; the folder's name is the architecture's name. A network of the user's own is
named by its import path, ``package.module:Class``. Importing this module, or an architecture's ``arch.py``, does not load torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ValidationError

from models.spec import ArchSpec
from pipeline.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

MODELS_DIR = Path(__file__).resolve().parent


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
