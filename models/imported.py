"""A user's own network, named by import path and wrapped so that the pipeline can use it."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, create_model, model_serializer, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from models.spec import ArchSpec, Padding, padding_of, size_multiple
from pipeline.errors import UsageError, did_you_mean


class ImportedConfig(BaseModel):
    """What the pipeline asks about a network that lives outside of ``models/``; the arguments of its class stand beside these keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the class, where one has the name of another key")
    size_multiple: int | None = Field(
        default=None, ge=1, description="height and width of the input must be multiples of this; by default the class's own, or 1"
    )
    taps: tuple[str, ...] = Field(
        default=(), description="submodules whose outputs are the features, coarse last; by default what the class's own features() gives"
    )
    range: Literal["unit", "signed"] = Field(default="unit", description="images that the class takes and returns: in [0, 1] or [-1, 1]")
    output: int | None = Field(
        default=None, description="which element, where it returns a list; by default the first one that has the input's size"
    )
    padding: Padding | None = Field(default=None, description="how images are extended; by default the class's own, or mirrored")

    @model_serializer(mode="wrap")
    def _given(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Only what was given: the class's own defaults stay the class's."""
        return {key: value for key, value in serialize(self).items() if key in self.model_fields_set}

    def arguments(self) -> dict[str, Any]:
        """The arguments of the class."""
        return {**self.kwargs, **self.beside()}

    def beside(self) -> dict[str, Any]:
        """Those that stand beside the other keys."""
        named = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set and name not in _KEYS}
        return {**named, **(self.model_extra or {})}


_KEYS = ImportedConfig.model_fields.keys()


class OpenConfig(ImportedConfig):
    """The same for a class that takes any keyword."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class ImportedNetwork(nn.Module):
    """Wraps a network: gives it the pipeline's convention, leaves its names and weights alone.

    Args:
        network: takes images [N, 3, H, W] in the range that ``config`` says and returns the restored ones, or a list with them.
        config: what it was built from.
    """

    def __init__(self, network: nn.Module, config: ImportedConfig) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.size_multiple: int = config.size_multiple or size_multiple(network)
        self.padding: Padding = config.padding or padding_of(network)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1]; returns the same shape."""
        return self._restored(self.network(self._scaled(lq)), lq)

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output, and what the submodules named in ``taps`` returned; without taps what the class's own ``features`` gives."""
        own = getattr(self.network, "features", None)
        if not self.config.taps and callable(own) and not isinstance(own, nn.Module):
            both = own(self._scaled(lq))
            if not (isinstance(both, tuple) and len(both) == 2 and isinstance(both[1], list | tuple)):
                hint = "return the restored images and a list of features, or name submodules in taps:"
                raise UsageError(f"{type(self.network).__name__}.features", "does not return two things", hint)
            return self._restored(both[0], lq), list(both[1])
        found: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda _module, _inputs, output: found.__setitem__(name, output)

        hooks = [self.network.get_submodule(name).register_forward_hook(keep(name)) for name in self.config.taps]
        try:
            output = self(lq)
        finally:
            for hook in hooks:
                hook.remove()
        return output, [found[name] for name in self.config.taps]

    def _scaled(self, lq: Tensor) -> Tensor:
        return lq if self.config.range == "unit" else 2 * lq - 1

    def _restored(self, output: Any, lq: Tensor) -> Tensor:
        if isinstance(output, list | tuple):
            output = self._chosen(output, lq)
        if not isinstance(output, Tensor):
            raise UsageError(
                type(self.network).__name__, f"returns a '{type(output).__name__}'", "return the restored images, or a list with them"
            )
        return output if self.config.range == "unit" else 0.5 * output + 0.5

    def _chosen(self, outputs: list[Any] | tuple[Any, ...], lq: Tensor) -> Any:
        index = self.config.output
        if index is None:
            index = next((i for i, image in enumerate(outputs) if isinstance(image, Tensor) and image.shape == lq.shape), None)
        if index is None or not -len(outputs) <= index < len(outputs):
            shapes = ", ".join(str(list(image.shape)) if isinstance(image, Tensor) else type(image).__name__ for image in outputs)
            where, hint = f"{type(self.network).__name__}: output", "set output: to the element that is the restored image"
            what = f"none is {list(lq.shape)}" if index is None else f"there is no element {index}"
            raise UsageError(where, f"{what} of the {len(outputs)} that it returns ({shapes})", hint)
        return outputs[index]


def imported_arch(path: str) -> ArchSpec:
    """The declaration around ``package.module:Class``.

    Raises:
        UsageError: the module cannot be imported, or the name is not an ``nn.Module`` class. Nothing is called before that check:
            a checkpoint may come from anywhere.
    """
    cls = _find_class(path)

    def build(config: ImportedConfig) -> nn.Module:
        try:
            network = cls(**config.arguments())
        except (TypeError, ValueError) as e:
            given = ", ".join(f"{name}={value!r}" for name, value in config.arguments().items()) or "its defaults"
            raise UsageError(f"config of {path}", f"the class refuses {given} ({e})", "give the arguments that the class takes") from e
        _check_taps(path, network, config.taps)
        return ImportedNetwork(network, config)

    return ArchSpec(
        _config_model(cls), build, lambda module: dict(module.config.model_dump(mode="json")), official=lambda module: module.network
    )


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


def _config_model(cls: type[nn.Module]) -> type[ImportedConfig]:
    """``ImportedConfig`` with one more key per argument of the class, where the name is free."""
    signature = inspect.signature(cls)
    kinds = {p.name: p.kind for p in signature.parameters.values()}
    named = [name for name, kind in kinds.items() if kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)]
    free = [name for name in named if not name.startswith("_") and name not in {*dir(BaseModel), *_KEYS}]
    fields: dict[str, Any] = {name: (Any, Field(default=None, description=f"argument of {cls.__name__}")) for name in free}
    anything = inspect.Parameter.VAR_KEYWORD in kinds.values()

    def check(config: ImportedConfig) -> ImportedConfig:
        problem = _problem(cls.__name__, signature, None if anything else named, config)
        if problem:
            raise PydanticCustomError("arguments", "{problem}", {"problem": problem})
        return config

    checks: dict[str, Any] = {"_takes_the_arguments": model_validator(mode="after")(check)}
    return create_model(f"{cls.__name__}Config", __base__=OpenConfig if anything else ImportedConfig, __validators__=checks, **fields)


def _problem(name: str, signature: inspect.Signature, known: list[str] | None, config: ImportedConfig) -> str:
    """What is wrong with the arguments given to class ``name``, which takes the ``known`` ones or any; empty when nothing is."""
    given = config.arguments()
    twice = sorted(config.beside().keys() & config.kwargs.keys())
    if twice:
        return f"'{twice[0]}' stands beside kwargs and in it: give it once"
    unknown = [key for key in given if known is not None and key not in known]
    if unknown:
        return f"{name} takes no '{unknown[0]}'; {did_you_mean(str(unknown[0]), known or [])}"
    try:
        signature.bind(**given)
        json.dumps(given)
    except TypeError as e:
        return f"{name}: {e}"
    return ""


def _check_taps(path: str, network: nn.Module, taps: tuple[str, ...]) -> None:
    names: Mapping[str, nn.Module] = dict(network.named_modules())
    for tap in taps:
        if tap not in names:
            raise UsageError(f"config of {path}: taps", f"the network has no submodule '{tap}'", did_you_mean(tap, names))
