"""YAML read the way its author meant it, and turned into typed models at the door.

PyYAML implements YAML 1.1: ``1e-4`` is a string there, ``10:20`` is 620, ``on`` is True and a repeated key silently keeps the
last value. The loader below reads the YAML 1.2 core forms of numbers and booleans and refuses repeated keys.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import UsageError, did_you_mean

M = TypeVar("M", bound=BaseModel)

_CORE_FORMS = (  # YAML 1.2 core schema, section 10.3.2; the characters are those that can begin the form
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars and unique keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - shadows the 1.1 table of the base class

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; a key that occurs twice is an error at its second place."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' occurs twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer of YAML 1.2: decimal also with a leading zero, 0o for octal, 0x for hexadecimal."""
        text: str = node.value
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)

for _tag, _pattern, _first in _CORE_FORMS:
    for _char in [*_first, ""] if _tag == "null" else _first:
        _Loader.yaml_implicit_resolvers.setdefault(_char, []).append((f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$")))


def load_yaml(path: Path) -> Any:
    """Read one YAML document.

    Raises:
        UsageError: the file is missing, unreadable, not UTF-8, or not YAML; says line and column.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(str(path), "no such file", "give the path of an existing YAML file") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(str(path), f"cannot be read ({e})", "give a readable UTF-8 text file") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text; ``where`` names it in errors."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise UsageError(place, f"malformed YAML, {e.problem or e}", "mend that line; indentation is spaces, keys end in ': '") from None
    except yaml.YAMLError as e:
        raise UsageError(where, f"malformed YAML, {e}", "mend the file") from None


def validate(model: type[M], value: Any, where: str, prefix: str = "") -> M:
    """Turn parsed YAML into ``model``.

    Args:
        model: a pydantic model that forbids extra keys.
        value: what the YAML loader returned.
        where: file that the value came from.
        prefix: dotted path of the value inside that file.

    Raises:
        UsageError: with the dotted path of the first wrong key and, for an unknown one, the nearest known.

    """
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {prefix}" if prefix else where, f"is {_kind(value)}, not a mapping", "write 'key: value' lines there")
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise _usage_error(model, e.errors()[0], where, prefix) from None


def _usage_error(model: type[BaseModel], error: ErrorDetails, where: str, prefix: str) -> UsageError:
    dotted = ".".join([prefix] * bool(prefix) + [str(p) for p in error["loc"] if not _is_tag(p)])
    place = f"{where}: {dotted}"
    if error["type"] == "extra_forbidden":
        return UsageError(place, "unknown key", did_you_mean(str(error["loc"][-1]), _fields_at(model, error["loc"][:-1])))
    if error["type"] == "missing":
        return UsageError(place, "is missing", f"add '{error['loc'][-1]}:' there")
    message = error["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")  # YAML has lists
    if "; did you mean " in message:
        what, _, hint = message.partition("; ")
        return UsageError(place, what, hint)
    shown = error["input"]
    return UsageError(place, f"{_lower(message)} (got {shown!r})", "mend the value; 'python -m pipeline schema' lists what is allowed")


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    models = [model]
    for part in loc:
        fields = [m.model_fields[str(part)].annotation for m in models if str(part) in m.model_fields]
        models = [m for a in fields for m in _models_in(a)] or models
    return sorted({field.alias or name for m in models for name, field in m.model_fields.items()})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias) and issubclass(annotation, BaseModel):
        yield annotation
    for arg in typing.get_args(annotation):
        yield from _models_in(arg)


def _is_tag(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in {"str", "int", "float", "bool"})


def _kind(value: Any) -> str:
    names = {type(None): "empty", list: "a list", str: "a text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
