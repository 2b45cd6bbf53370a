"""``targets``: the boards that ship with the pipeline, and their limits."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("targets", help="List the targets and their limits.\n\nExample: python -m pipeline targets")(targets)


def targets(as_json: Annotated[bool, typer.Option("--json", help="print every field as JSON")] = False) -> None:
    """List the targets and their limits."""
    from pipeline.target import known_targets, load_target

    found = [load_target(name) for name in known_targets()]
    if as_json:
        print(json.dumps([t.model_dump(mode="json") for t in found], indent=1))
        return
    width = max(len(t.name) for t in found)
    for t in found:
        backends = " · ".join(" ".join([b.use, *b.precisions]) for b in t.backends)
        limits = f"{t.frame.width}x{t.frame.height} in {t.latency_budget_ms:g} ms · opset <= {t.opset} · channels x{t.channel_multiple}"
        print(f"{t.name:<{width}}  {t.title}\n{'':<{width}}  {limits}\n{'':<{width}}  {backends}")
    print("\nA target of your own: --target path/to/board.yaml")
