"""A user's own network, named by import path and wrapped so that the pipeline can use it."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.arch import ArchSpec
from pipeline.errors import UsageError, did_you_mean


class ImportedConfig(BaseModel):
    """Configuration of a network that lives outside of ``models/``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the class")
    size_multiple: int = Field(default=1, ge=1, description="height and width of the input must be multiples of this")
    taps: tuple[str, ...] = Field(default=(), description="names of the submodules whose outputs are the features, coarse last")


class ImportedNetwork(nn.Module):
    """Wraps a network: adds ``size_multiple`` and ``features``, leaves the rest alone.

    Args:
        network: takes lq float32 [N, 3, H, W] in [0, 1] and returns the restored image of equal shape.
        config: what it was built from.
    """

    def __init__(self, network: nn.Module, config: ImportedConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.size_multiple = config.size_multiple

    def forward(self, lq: Tensor) -> Tensor:
        """The wrapped network's output."""
        output: Tensor = self.network(lq)
        return output

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and what the submodules named in ``taps`` returned (none named: no features)."""
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda _module, _inputs, output: found.__setitem__(name, output)

        hooks = [self.network.get_submodule(name).register_forward_hook(keep(name)) for name in self.config.taps]
        try:
            output = self.network(lq)
        finally:
            for hook in hooks:
                hook.remove()
        return output, [found[name] for name in self.config.taps]


def imported_arch(path: str) -> ArchSpec:
    """The declaration around ``package.module:Class``.

    Raises:
        UsageError: the module cannot be imported, or the name is not an ``nn.Module`` class. Nothing is called before that check:
            a checkpoint may come from anywhere.
    """
    cls = _find_class(path)

    def build(config: ImportedConfig) -> nn.Module:
        try:
            network = cls(**config.kwargs)
        except TypeError as e:
            raise UsageError(f"config of {path}: kwargs", str(e), "give the arguments that the class takes") from e
        _check_taps(path, network, config.taps)
        return ImportedNetwork(network, config)

    return ArchSpec(ImportedConfig, build, lambda module: dict(module.config.model_dump(mode="json")))


def _find_class(path: str) -> type[nn.Module]:
    module_name, _, name = path.partition(":")
    if not name:
        raise UsageError("arch", f"'{path}' names no class", "write package.module:Class")
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except ImportError as e:
        raise UsageError("arch", f"cannot import '{module_name}' ({e})", "install it, or put its folder on PYTHONPATH") from e
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError("arch", f"'{name}' in '{module_name}' is no torch.nn.Module class", "write package.module:Class")
    return found


def _check_taps(path: str, network: nn.Module, taps: tuple[str, ...]) -> None:
    names = dict(network.named_modules())
    for tap in taps:
        if tap not in names:
            raise UsageError(f"config of {path}: taps", f"the network has no submodule '{tap}'", did_you_mean(tap, names))
