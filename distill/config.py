"""What both stages say about their network. Importing this does not load torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from models.arch import code_of, load_arch
from pipeline.errors import UsageError, did_you_mean


class NetworkConfig(BaseModel):
    """Which network, and where its weights come from. Keys of the architecture stand beside these, e.g. ``width: 16``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: str = Field(description="folder in models/, or package.module:Class of your own")
    weights: Path | None = Field(default=None, description="checkpoint, or a file of published weights, to load instead of training")
    config: dict[str, Any] = Field(default_factory=dict, description="the architecture's keys, where they do not stand beside 'arch'")

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, data: Any) -> Any:
        """Move the architecture's keys into ``config``, checked."""
        if not isinstance(data, dict) or not isinstance(data.get("config", {}), dict):
            return data
        beside = {key: value for key, value in data.items() if key not in cls.model_fields}
        stage = {key: value for key, value in data.items() if key in cls.model_fields}
        config = {**stage.get("config", {}), **beside}
        if stage.get("weights") is None:
            arch = stage.get("arch", cls.model_fields["arch"].default)
            _check(cls, arch, config, nested=set(stage.get("config", {})))
        return {**stage, "config": config}


def own_code(config: NetworkConfig) -> tuple[str, ...]:
    """The module of a network of the user's own, whose code enters the stage's key; decided from the name, without loading torch."""
    return code_of(config.arch)


def _check(stage: type[BaseModel], arch: Any, config: dict[str, Any], nested: set[str]) -> None:
    """Raise a ValidationError, with the places of the YAML file, unless ``config`` fits the architecture."""
    if not isinstance(arch, str):
        return
    try:
        model = load_arch(arch).config
        model.model_validate(config)
    except UsageError as e:
        raise _error(stage, [(("arch",), f"{e.what}; {e.hint}", arch)]) from None
    except ValidationError as e:
        raise _error(stage, _lines(stage, model, e.errors(), nested)) from None


Line = tuple[tuple[int | str, ...], str, Any]


def _lines(stage: type[BaseModel], model: type[BaseModel], errors: list[ErrorDetails], nested: set[str]) -> Iterator[Line]:
    for error in errors:
        place = error["loc"]
        text = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            known = [*stage.model_fields, *model.model_fields] if len(place) == 1 else []
            text = f"unknown key; {did_you_mean(str(place[-1]), known)}"
        yield (("config", *place) if place and place[0] in nested else place), text, error["input"]


def _error(stage: type[BaseModel], lines: Iterator[Line] | list[Line]) -> ValidationError:
    details = [InitErrorDetails(type=PydanticCustomError("network", "{text}", {"text": t}), loc=p, input=v) for p, t, v in lines]
    return ValidationError.from_exception_data(stage.__name__, details)


def check_weights(config: NetworkConfig, arch: str, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that is not what the stage's configuration says.

    Args:
        config: the stage's; what it does not name is not compared.
        arch: the checkpoint's architecture.
        found: the checkpoint's configuration.

    Raises:
        UsageError: another architecture, or another value of a key.
    """
    where, hint = str(config.weights), "remove what the YAML says beside 'weights', or give the checkpoint that fits it"
    if "arch" in config.model_fields_set and config.arch != arch:
        raise UsageError(where, f"holds a '{arch}', but the stage's arch is '{config.arch}'", hint)
    for key, value in config.config.items():
        if key not in found:
            raise UsageError(where, f"holds a '{arch}' without '{key}'", hint)
        if found[key] != value:
            raise UsageError(where, f"has {key} = {found[key]!r}, but the stage says {value!r}", hint)
