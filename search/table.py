"""The front and the full runs on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.contract import Measurement
from pipeline.report.numbers import MISSING, number
from search.front import Outcome, Point
from search.problem import Problem
from search.space import in_short

_WIDE = 165


def show_front(problem: Problem, found: Outcome, files: Mapping[int, Path], console: Console) -> None:
    """Print the front, fastest first, what it rests on, its pipeline files, and why trials have no result."""
    target = problem.plan.target
    table = _table(f"Pareto front of {problem.plan.path.name} for {target.name}")
    for head in ("trial", "estimated ms", "gain", "MACs", "params", "size"):
        table.add_column(head, justify="right", no_wrap=True)
    wide = console.width >= _WIDE
    if wide:
        table.add_column("configuration", no_wrap=True)
    for point in found.front:
        table.add_row(str(point.trial), *_numbers(point), *([in_short(point.params)] if wide else []))
    console.print(table)
    for line in (*_explained(problem, found), *(f"trial {trial}: {reason}" for trial, reason in found.unlucky)):
        console.print(Text(line, "dim"), soft_wrap=True)
    for point in found.front:
        console.print(Text(f"trial {point.trial}: {in_short(point.params)}\n  ready to run: {files[point.trial]}"), soft_wrap=True)


def _explained(problem: Problem, found: Outcome) -> list[str]:
    target, samples = problem.plan.target, found.front[0].row("psnr_gain").samples
    frame = f"{target.frame.width}x{target.frame.height}"
    budget = f"the budget is {problem.limits.budget_ms:g} ms at p90, which is {target.jitter_p90:g} x p50"
    where = f"over the blurred input of {samples} calibration images, measured on this host"
    lines = [
        f"ms: p50 of one {frame} frame, estimated for {target.name}; {budget}",
        f"gain: PSNR {where} after {problem.steps} training steps",
    ]
    if not found.within_limits:
        lines.append("no point keeps to the limits: this is the front of those that break them; widen the space towards smaller networks")
    return lines


def show_runs(runs: Sequence[Mapping[str, Any]], target: str, console: Console) -> None:
    """Print what the full runs came to."""
    table = _table("Full runs")
    for head in ("trial", "verdict", "gain on the test set", "size", f"p90 estimated for {target}", "run"):
        table.add_column(head, justify="left" if head in ("verdict", "run") else "right", overflow="fold")
    for run in runs:
        table.add_row(str(run["trial"]), run["verdict"], *_run_numbers(run), str(run["run"] or run["error"]))
    console.print(table)


def _run_numbers(run: Mapping[str, Any]) -> list[str]:
    rows = {m["name"]: m for m in run["measurements"]}
    found = []
    for name in ("psnr_gain", "size", "latency_p90"):
        m = rows.get(name)
        known = m is not None and (name != "latency_p90" or m["evidence"] == "estimated")
        found.append(number(m["value"], m["unit"], metric=name, signed=name == "psnr_gain").text if m is not None and known else MISSING)
    return found


def _numbers(point: Point) -> list[str]:
    return [_text(point.row(name)) for name in ("latency_p50", "psnr_gain", "macs", "params", "size")]


def _text(m: Measurement) -> str:
    return number(m.value, m.unit, metric=m.name, signed=m.name == "psnr_gain").text


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
