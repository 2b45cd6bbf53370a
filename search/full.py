"""Full runs of the best of a front: ordinary pipeline runs in the same workspace, so that stages they share are restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.config import load_pipeline
from pipeline.contract import Progress
from pipeline.errors import PipelineError
from pipeline.plan import make_plan
from pipeline.runner import Runner, RunOptions
from pipeline.target import Target
from search.front import Outcome, Point

RunProgress = Callable[[str, int, int, Path, Callable[..., None]], Progress]
SHOWN = ("psnr", "psnr_gain", "size", "latency_p90", "macs", "params")


def best(found: Outcome, count: int) -> list[Point]:
    """The points of the front with the highest gain, best first."""
    return sorted(found.front, key=lambda p: (-p.gain, p.ms))[:count]


def run_full(
    points: list[Point], files: Mapping[int, Path], target: Target, workspace: Path, progress: RunProgress, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Run the pipeline files of some points; what one of them fails of does not keep the others from running.

    Args:
        points: which.
        files: trial -> pipeline file.
        target: the device.
        workspace: where results are stored and found.
        progress: as the runner takes it.
        say: called with each line meant for the user.

    Returns:
        For each point: trial, verdict, run folder, the last stage's measurements of ``SHOWN``, and the error that stopped it, if any.
    """
    return [_run(point, files[point.trial], target, workspace, progress, say) for point in points]


def _run(point: Point, path: Path, target: Target, workspace: Path, progress: RunProgress, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"trial {point.trial}, full run of {path}")
    entry: dict[str, Any] = {
        "trial": point.trial,
        "pipeline": str(path),
        "verdict": "failed",
        "run": None,
        "measurements": [],
        "error": None,
    }
    try:
        result = Runner(make_plan(path, load_pipeline(path), target), workspace, progress, say).run(RunOptions())
    except PipelineError as e:
        return entry | {"error": str(e)}
    last: dict[str, dict[str, Any]] = {}
    for stage in result.report["stages"]:
        last |= {m["name"]: m | {"stage": stage["id"]} for m in reversed(stage["measurements"]) if m["name"] in SHOWN}
    rows = [{k: v for k, v in m.items() if k != "values"} for m in last.values()]
    error = str(result.error) if result.error is not None else None
    return entry | {"verdict": result.report["verdict"], "run": str(result.path), "measurements": rows, "error": error}
