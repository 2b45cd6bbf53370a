"""``schema``: the JSON Schema of pipeline.yaml, for editors."""

from __future__ import annotations

import json
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "schema",
        help="Print the JSON Schema of pipeline.yaml, for editors.\n\nExample: python -m pipeline schema > pipeline.schema.json",
    )(schema)


def schema() -> None:
    """Print the JSON Schema of pipeline.yaml, for editors."""
    print(json.dumps(pipeline_schema(), indent=1))


def pipeline_schema() -> dict[str, Any]:
    """The schema: the file's own model, with each shipped reader's options and each shipped stage's ``with`` block."""
    from pipeline.config import PipelineFile
    from pipeline.plan import known_readers, known_stages, load_reader, load_stage

    tree = PipelineFile.model_json_schema(by_alias=True)
    tree["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    defs = tree.setdefault("$defs", {})
    readers = {name: _inline(load_reader(name, name).config.model_json_schema(), f"reader.{name}", defs) for name in known_readers()}
    for name, reader in readers.items():
        reader["properties"] = {"source": {"const": name}, **reader.get("properties", {})}
        reader["required"] = ["source", *reader.get("required", [])]
    tree["properties"]["data"]["additionalProperties"] = {"oneOf": list(readers.values())}
    rules = []
    for name in known_stages():
        config = _inline(load_stage(name, name).config.model_json_schema(by_alias=True), f"stage.{name}", defs)
        matches = {"properties": {"uses": {"const": name}}, "required": ["uses"]}
        rules.append({"if": matches, "then": {"properties": {"with": config}}})
    defs["StageEntry"]["allOf"] = rules
    return tree


def _inline(schema: dict[str, Any], prefix: str, defs: dict[str, Any]) -> dict[str, Any]:
    """Move a model's own definitions into the shared ones under a prefix, and point its references there."""
    own = schema.pop("$defs", {})
    text = json.dumps([schema, own])
    for name in own:
        text = text.replace(f'"#/$defs/{name}"', f'"#/$defs/{prefix}.{name}"')
    moved, own = json.loads(text)
    defs.update({f"{prefix}.{name}": d for name, d in own.items()})
    out: dict[str, Any] = moved
    return out
