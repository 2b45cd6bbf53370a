"""The summary that ends a run in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.report.numbers import MISSING, Number
from pipeline.report.view import MARKS, GateRow, RunView

_STYLES = {
    "passed": "bold green",
    "failed": "bold red",
    "unproven": "bold yellow",
    "ran": "",
    "restored": "dim",
    "retreated": "yellow",
    "skipped": "dim",
}
_ORIGINS = {"host": "cyan", "estimated": "yellow", "target": "green"}
_NARROW, _MIDDLE, _WIDE = 84, 95, 110


def show(view: RunView, console: Console) -> None:
    """Print the stage table, the gate table and the verdict; columns of less interest go first when the console is narrow."""
    console.print(_stage_table(view, console.width))
    if any(stage.measured.latencies for stage in view.stages):
        console.print(_latency_table(view, console.width))
    if view.gates:
        console.print(_gate_table(view, console.width))
    console.print(_verdict_line(view))


def _stage_table(view: RunView, width: int) -> Table:
    table = _table("Stages")
    table.add_column("stage", no_wrap=True)
    table.add_column("status", no_wrap=True)
    columns = _columns(width)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for stage in view.stages:
        picked = dict(zip(("PSNR", "SSIM", "worst 5", "Δ", "params", "MACs", "size"), stage.numbers(), strict=True))
        cells = [_number(picked[name]) for name in columns]
        table.add_row(stage.id, _marked(stage.status), *cells, MISSING if stage.status == "skipped" else stage.seconds.text)
    return table


def _columns(width: int) -> tuple[str, ...]:
    if width >= _WIDE:
        return ("PSNR", "Δ", "SSIM", "worst 5", "params", "MACs", "size")
    return ("PSNR", "Δ", "SSIM", "params", "size") if width >= _NARROW else ("PSNR", "Δ", "size")


def _latency_table(view: RunView, width: int) -> Table:
    table = _table("Latency")
    for name in ("stage", "p50", "speedup", *(("others",) if width >= _MIDDLE else ()), "frame", "where it comes from"):
        table.add_column(name, justify="right" if name in {"p50", "speedup"} else "left", no_wrap=True)
    for stage in view.stages:
        for n, item in enumerate(stage.measured.latencies):
            speed = stage.measured["speedup"] if n == 0 else Number()
            leading = _number(item.number) if item.percentile == "p50" else Text(MISSING, "dim")
            others = item.others if item.percentile == "p50" else f"{item.percentile} {item.number.text}, {item.others}".rstrip(", ")
            middle = (Text(others, "dim"),) if width >= _MIDDLE else ()
            table.add_row(stage.id, leading, _number(speed), *middle, item.frame_text, Text(item.origin, _ORIGINS.get(item.evidence, "")))
    return table


def _table(title: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")


def _gate_table(view: RunView, width: int) -> Table:
    table = _table("Gates")
    table.add_column("stage", no_wrap=True)
    table.add_column("gate")
    for name in ("value", "margin"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("evidence")
    table.add_column("verdict", no_wrap=True)
    for gate in view.gates:
        short = gate.evidence or MISSING if width < _WIDE and not gate.origin.startswith("replayed") else gate.origin
        table.add_row(gate.stage, *_gate_cells(gate, short))
    return table


def _gate_cells(gate: GateRow, evidence: str) -> tuple[Text, Text, Text, Text, Text]:
    rule = Text.assemble(gate.rule, (f" ({gate.reason})" if gate.reason else "", "dim"))
    return (rule, _number(gate.value), _number(gate.margin), Text(evidence, "dim"), _marked(gate.verdict))


def _verdict_line(view: RunView) -> Text:
    unmet = [g for g in view.gates if g.verdict != "passed"]
    parts = [(f"{MARKS.get(view.verdict, '!')} {view.verdict}", _STYLES.get(view.verdict, "bold red"))]
    parts.append((f"  {view.target} in {view.seconds.text}", ""))
    if view.gates:
        parts.append((f", {len(view.gates) - len(unmet)} of {len(view.gates)} gates passed", ""))
    skipped = sum(s.status == "skipped" for s in view.stages)
    if skipped:
        parts.append((f", {skipped} of {len(view.stages)} stages not run", ""))
    return Text.assemble(*parts)


def _marked(word: str) -> Text:
    return Text(f"{MARKS.get(word, '!')} {word}", _STYLES.get(word, "bold red"))


def _number(value: Number) -> Text:
    return Text(value.text, {"nan": "bold red", "missing": "dim"}.get(value.state, ""))
