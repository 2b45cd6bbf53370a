"""How a verb opens what it is about: the arguments that they share, the plan, the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pipeline.plan import Plan

PipelineArg = Annotated[Path, typer.Argument(help="the pipeline file", metavar="PIPELINE")]
TargetOpt = Annotated[str, typer.Option("--target", help="a shipped target (see 'targets') or the path of a target YAML")]
SetOpt = Annotated[list[str], typer.Option("--set", help="override one value: stages.prune.with.ratio=0.3", metavar="PATH=VALUE")]
BackendOpt = Annotated[list[str], typer.Option("--backend", help="of the target's backends, try this one; may be repeated", metavar="NAME")]
WorkspaceOpt = Annotated[
    Path | None, typer.Option("--workspace", help="where results and runs are kept; '.pipeline' beside PIPELINE when left out")
]


def open_plan(pipeline: Path, target: str, overrides: list[str], workspace: Path | None = None) -> Plan:
    """The plan of a pipeline file for a target, everything validated; with what the workspace has learned of the target's speed."""
    from pipeline.calibration import refined
    from pipeline.config import load_pipeline
    from pipeline.plan import make_plan
    from pipeline.target import load_target

    return make_plan(pipeline, load_pipeline(pipeline, tuple(overrides)), refined(load_target(target), workspace_of(pipeline, workspace)))


def narrowed_plan(pipeline: Path, target: str, overrides: list[str], backends: list[str], workspace: Path | None = None) -> Plan:
    """The plan, with every stage that chooses between backends (its configuration has ``backends``) kept to those named.

    Raises:
        UsageError: a name that the target file does not have, or no such stage.

    """
    plan = open_plan(pipeline, target, overrides, workspace)
    if not backends:
        return plan
    known = [b.use for b in plan.target.backends]
    for name in backends:
        if name not in known:
            raise UsageError("--backend", f"target '{plan.target.name}' names no backend '{name}'", did_you_mean(name, known))
    choosing = [s.id for s in plan.stages if "backends" in type(s.config).model_fields]
    if not choosing:
        raise UsageError("--backend", f"no stage of {pipeline.name} chooses between backends", "leave it out")
    names = ", ".join(dict.fromkeys(backends))
    return open_plan(pipeline, target, [*overrides, *(f"stages.{id_}.with.backends=[{names}]" for id_ in choosing)], workspace)


def workspace_of(pipeline: Path, workspace: Path | None) -> Path:
    """The workspace: as given, or ``.pipeline`` beside the pipeline file."""
    return (workspace or pipeline.resolve().parent / ".pipeline").resolve()
