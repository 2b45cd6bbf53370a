"""A target written out for its owner to edit: every field with what it means, valid as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pipeline.errors import UsageError
from pipeline.target import Recognise, Target

_HEAD = """# {name}: a target of your own, begun as a copy of {like} ({title}). Use it by its path: --target {path}
# Check every value against your board. What the estimates rest on is under rates: peak rates and bandwidth are in its datasheet, the
# efficiencies are best left until `python -m pipeline bench --calibrate` has measured them.
# Shorter: `extends: {like}` and below it only what differs.
"""
_HIDDEN = frozenset({"calibrations", "is_host"})


def render(name: str, like: Target, path: str) -> str:
    """The YAML text of a new target.

    Args:
        name: of the new one: small letters, digits and dashes.
        like: where its values come from; how that board is recognised is left out.
        path: where the text will be, for its first line.

    Raises:
        UsageError: no name for a target.

    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise UsageError("--new", f"'{name}' is no name for a target", "use small letters, digits and dashes, e.g. my-board")
    changed = {"name": name, "title": f"{name}, begun as {like.title}", "recognise": Recognise(), "is_host": False}
    target = like.model_copy(update=changed)
    head = _HEAD.format(name=name, like=like.name, title=like.title, path=path)
    return head + "\n".join(_lines(target, 0)) + "\n"


def _lines(model: BaseModel, indent: int) -> Iterator[str]:
    for field, info in type(model).model_fields.items():
        value = getattr(model, field)
        if field in _HIDDEN or value is None:
            continue
        yield from _entry(" " * indent, field, value, info.description or "")


def _entry(space: str, key: str, value: Any, said: str) -> Iterator[str]:
    comment = f" # {said}" if said else ""
    if isinstance(value, BaseModel):
        yield f"{space}{key}:{comment}"
        yield from _lines(value, len(space) + 2)
    elif isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
        yield f"{space}{key}:{comment}"
        for name, inner in value.items():
            yield from _entry(f"{space}  ", name, inner, "")
    elif isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value):
        yield f"{space}{key}:{comment}"
        yield from (f"{space}  - {_flow(v.model_dump(mode='json', exclude_defaults=True))}" for v in value)
    else:
        yield f"{space}{key}: {_flow(value)}{comment}"


def _flow(value: Any) -> str:
    """JSON, which YAML reads as it is."""
    return json.dumps(value, ensure_ascii=False)
