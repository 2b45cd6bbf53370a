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
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "what it is", "backends", "frame", "budget", "opset", "channels", "python")
    table.columns[0].no_wrap = True
    for t in found:
        backends = ", ".join(f"{b.use} ({' '.join(b.precisions)})" for b in t.backends)
        budget = f"{t.latency_budget_ms:g} ms"
        frame = f"{t.frame.width}x{t.frame.height}"
        table.add_row(t.name, t.title, backends, frame, budget, f"<= {t.opset}", f"x{t.channel_multiple}", t.python)
    Console().print(table)
