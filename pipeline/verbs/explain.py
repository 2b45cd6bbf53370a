"""``explain``: which part of a stage's key changed since a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.opening import BackendOpt, PipelineArg, SetOpt, TargetOpt, WorkspaceOpt, narrowed_plan, workspace_of

if TYPE_CHECKING:
    from pipeline.explain import Change, Explanation

_HELP = """Tell which part of a stage's key changed since a run, and so why the stage runs again.

A key has ten parts: contract, uses, code, config, inputs, data, target, toolchain, seed, machine. All equal: the stored result is taken.

Example: python -m pipeline explain pipeline.yaml prune --target jetson-xavier

Example: python -m pipeline explain pipeline.yaml prune --target jetson-xavier --against 20260301-120003-jetson-xavier
"""

_HEX = 64  # digits of a digest; shown by its first twelve


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("explain", help=_HELP)(explain)


def explain(
    pipeline: PipelineArg,
    stage: Annotated[str, typer.Argument(help="id of the stage", metavar="STAGE")],
    target: TargetOpt,
    against: Annotated[str, typer.Option("--against", help="a run: its name, its folder, or 'latest'", metavar="RUN")] = "latest",
    overrides: SetOpt = [],  # noqa: B006 - typer wants a literal
    backends: BackendOpt = [],  # noqa: B006
    workspace: WorkspaceOpt = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Tell which part of a stage's key changed since a run."""
    from pipeline.explain import explain as compare_keys
    from pipeline.runs import find_run

    place = workspace_of(pipeline, workspace)
    plan = narrowed_plan(pipeline, target, overrides, backends, workspace)
    found = compare_keys(plan, stage, find_run(against, place), place)
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        _say(found)


def _say(found: Explanation) -> None:
    unchanged = not found.changes and not found.unknown
    print(f"{found.stage} against run {found.run.name}: {'nothing changed' if unchanged else 'changed'}")
    for change in found.changes:
        print(f"  {_line(change)}")
    for name, source in found.unknown.items():
        print(f"  inputs.{name}: not known before {source} has run; explain {source} says why it runs")
    if not found.cacheable:
        print("the stage runs every time: its result is never stored")
    elif found.key:
        print(f"key {found.key[:12]}: {'a result is stored' if found.stored else 'no result is stored, the stage runs'}")


def _line(change: Change) -> str:
    from pipeline.explain import ABSENT

    where = f"{change.part}.{change.name}" if change.name else change.part
    note = f" ({change.note})" if change.note else ""
    if change.part == "code" and change.name:
        what = "added" if change.before is ABSENT else "no longer imported" if change.after is ABSENT else "changed"
        return f"code: {change.name} {what}{note}"
    before, after = ("(absent)" if side is ABSENT else _text(side) for side in (change.before, change.after))
    return f"{where}: {before} -> {after}{note}"


def _text(value: Any) -> str:
    is_digest = isinstance(value, str) and len(value) == _HEX and not set(value) - set("0123456789abcdef")
    return value[:12] if is_digest else json.dumps(value, ensure_ascii=False)
