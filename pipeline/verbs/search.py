"""``search``: students under a target's limits, as a Pareto front of quality and latency."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from pipeline.opening import PipelineArg, SetOpt, TargetOpt, WorkspaceOpt, open_plan, workspace_of

_HELP = """Search for students under the target's limits: short trainings first, full runs for the best.

Each trial picks a student (width, depth, kinds of block, ...), a prune ratio and a precision. The estimator drops those that are
hopeless on the target; the others run through the pipeline's own stages with short trainings, judged on the calibration set.
The same command goes on where it stopped; with one --storage, several workers or machines share the trials.

Example: python -m pipeline search pipeline.yaml --target jetson-xavier --trials 40 --full 2
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("search", help=_HELP)(search)


def search(
    pipeline: PipelineArg,
    target: TargetOpt,
    trials: Annotated[int, typer.Option("--trials", min=1, help="trials that the study is to have in the end")],
    storage: Annotated[
        str,
        typer.Option(
            "--storage", help="sqlite:///FILE, another database, or journal:FILE; a file in the workspace when left out", metavar="URL"
        ),
    ] = "",
    study: Annotated[str, typer.Option("--study", help="name of the study in the storage", metavar="NAME")] = "search",
    workers: Annotated[int, typer.Option("--workers", min=1, help="processes on this machine")] = 1,
    out: Annotated[Path | None, typer.Option("--out", help="where front.json, front.svg and pipeline files go", metavar="DIR")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="YAML with the choices of the dimensions", metavar="FILE")] = None,
    proxy_steps: Annotated[int, typer.Option("--proxy-steps", min=1, help="training steps of a proxy's student")] = 300,
    full: Annotated[int, typer.Option("--full", min=0, help="how many of the front to run in full", metavar="M")] = 0,
    overrides: SetOpt = [],  # noqa: B006 - typer wants a literal
    workspace: WorkspaceOpt = None,
    as_json: Annotated[bool, typer.Option("--json", help="print front.json instead of the table")] = False,
) -> None:
    """Search for students under the target's limits."""
    command = importlib.import_module("search.command")
    request = command.Request(
        pipeline=pipeline,
        target=target,
        overrides=tuple(overrides),
        workspace=workspace_of(pipeline, workspace),
        trials=trials,
        storage=storage,
        study=study,
        workers=workers,
        out=out,
        space=space,
        steps=proxy_steps,
        full=full,
        as_json=as_json,
    )
    command.search(request, open_plan(pipeline, target, overrides, workspace))
