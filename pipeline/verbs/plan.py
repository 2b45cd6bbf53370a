"""``plan``: what a run would do, and why, without doing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.opening import BackendOpt, PipelineArg, SetOpt, TargetOpt, WorkspaceOpt, narrowed_plan, workspace_of

if TYPE_CHECKING:
    from pipeline.plan import Plan


_WIDE = 110


def register(app: typer.Typer) -> None:
    """Add the verb."""
    text = "Show what 'run' would run or restore, and why.\n\nExample: python -m pipeline plan pipeline.yaml --target host"
    app.command("plan", help=text)(plan)


def plan(
    pipeline: PipelineArg,
    target: TargetOpt,
    overrides: SetOpt = [],  # noqa: B006 - typer wants a literal
    backends: BackendOpt = [],  # noqa: B006
    workspace: WorkspaceOpt = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what 'run' would run or restore, and why."""
    from pipeline.runs import list_runs

    made = narrowed_plan(pipeline, target, overrides, backends, workspace)
    place = workspace_of(pipeline, workspace)
    rows = plan_rows(made, place)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _show(made, rows)
    if list_runs(place) and any(row["key"] and row["action"] == "run" for row in rows):
        print(f"what changed since the last run: python -m pipeline explain {made.path.name} STAGE --target {made.target.name}")


def _show(made: Plan, rows: list[dict[str, Any]]) -> None:
    """What is asked first comes first; a narrow terminal leaves out what the file says anyway."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{made.path.name} for {made.target.name}", title_justify="left")
    console = Console()
    wide = console.width >= _WIDE
    for name in ("stage", "would be", "why", *(("uses", "reads") if wide else ())):
        table.add_column(name, overflow="fold")
    for row in rows:
        more = (row["uses"], ", ".join([*row["needs"], *row["data"]])) if wide else ()
        table.add_row(row["id"], row["action"], row["why"], *more)
    console.print(table)


def plan_rows(made: Plan, workspace: Path) -> list[dict[str, Any]]:
    """One row a stage: id, uses, needs, data, action (run or restored), why, key where it is known."""
    from pipeline.key import key_of, key_parts
    from pipeline.store import Store

    store, known, rows = Store(workspace / "store"), dict[str, dict[str, str]](), []
    for stage in made.stages:
        row: dict[str, Any] = {"id": stage.id, "uses": stage.uses, "needs": [f"{a}.{b}" for a, b in stage.needs.values()]}
        row |= {"data": list(stage.spec.data), "key": None}
        waiting = sorted({source for source, _ in stage.needs.values() if source not in known})
        if waiting:
            row |= {"action": "run", "why": f"{waiting[0]} runs before it"}
        else:
            inputs = {name: known[source][output] for name, (source, output) in stage.needs.items()}
            row["key"] = key_of(key_parts(made, stage, inputs))
            stored = store.load(row["key"]) if stage.spec.cacheable else None
            if stored is None:
                row |= {"action": "run", "why": "no stored result with its key"}
            else:
                known[stage.id] = {name: o["sha256"] for name, o in stored["outputs"].items()}
                row |= {"action": "restored", "why": f"result of {_minute(stored['measured_at'])}"}
        rows.append(row)
    return rows


def _minute(stamp: str) -> str:
    """``2026-03-01T12:00:03+0000`` as ``2026-03-01 12:00``."""
    return stamp[:16].replace("T", " ")
