"""The run as Markdown: the page's tables without its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.report.measured import Latency
from pipeline.report.numbers import MISSING, Number
from pipeline.report.view import MARKS, CandidateRow, GateRow, RunView, StageRow

_STAGE_HEAD = ("stage", "status", "PSNR", "SSIM", "worst five", "Δ PSNR", "params", "MACs", "size", "latency", "time")
_GATE_HEAD = ("stage", "gate", "value", "bound", "margin", "evidence", "verdict")
_CANDIDATE_HEAD = ("candidate", "backend", "precision", "PSNR", "size", "latency", "verdict", "reason")


def render(view: RunView, run_dir: Path) -> str:
    """The whole document, ending in a newline."""
    return "\n".join(_lines(view, run_dir)).rstrip() + "\n"


def _lines(view: RunView, run_dir: Path) -> Iterator[str]:
    yield f"# {_verdict(view.verdict)} · {_text(view.target)} · {view.seconds.text}"
    yield ""
    if view.title:
        yield from (_text(view.title), "")
    yield from _facts(view, run_dir)
    yield from ("", "## Stages", "")
    yield from _table(_STAGE_HEAD, map(_stage_cells, view.stages), right=range(2, 9))
    yield from ("", f"Δ PSNR: against the stage before that has one. {MISSING}: not measured.", "", "## Gates", "")
    yield from _table(_GATE_HEAD, map(_gate_cells, view.gates), right=range(2, 5)) if view.gates else ["This run has no gates."]
    for stage in view.stages:
        yield from _details(stage)


def _facts(view: RunView, run_dir: Path) -> Iterator[str]:
    for item in view.headlines:
        yield f"- **{_text(item.caption)}**: {_number(item.number)} ({_text(item.detail)})"
    if view.started:
        yield f"- Started: {_text(view.started)}"
    if view.bundle:
        yield f"- Bundle: `{view.bundle}` in `{run_dir.name}`"
    if view.host:
        yield f"- This host: {', '.join(f'{_text(k)} {_text(v)}' for k, v in view.host)}"


def _stage_cells(stage: StageRow) -> list[str]:
    numbers = [_number(n) for n in stage.numbers()]
    times = _latencies(stage) + (f"<br>{_text(stage.measured.speed)}" if stage.measured.speed else "")
    return [_text(stage.id), f"{MARKS.get(stage.status, '!')} {_text(stage.status)}", *numbers, times, stage.seconds.text]


def _latencies(row: StageRow | CandidateRow) -> str:
    return "<br>".join(_latency(item) for item in row.measured.latencies) or MISSING


def _latency(item: Latency) -> str:
    others = f", {item.others}" if item.others else ""
    return _text(f"{item.percentile} {item.number.text}{others} — {item.origin}, {item.frame_text}")


def _gate_cells(gate: GateRow) -> list[str]:
    rule = _text(f"{gate.rule} ({gate.reason})" if gate.reason else gate.rule)
    return [_text(gate.stage), rule, *map(_number, (gate.value, gate.bound, gate.margin)), _text(gate.origin), _verdict(gate.verdict)]


def _details(stage: StageRow) -> Iterator[str]:
    if not stage.worth_details:
        return
    yield from ("", f"## {_text(stage.id)}: {_text(stage.title)}" if stage.title != stage.id else f"## {_text(stage.id)}", "")
    yield from (f"- {_text(line)}" for line in stage.error.splitlines())
    yield from (f"- {_text(note)}" for note in stage.notes)
    yield from (f"- {_text(o.name)} {_number(o.number)} ({_text(o.origin)})" for o in stage.measured.others)
    if stage.candidates:
        yield ""
        yield from _table(_CANDIDATE_HEAD, map(_candidate_cells, stage.candidates), right=(3, 4))


def _candidate_cells(row: CandidateRow) -> list[str]:
    m = row.measured
    verdict = "**chosen**" if row.chosen else "lost"
    numbers = (_number(m["psnr"]), _number(m["size"]), _latencies(row))
    reason = f"{row.reason} ({row.others})" if row.others else row.reason
    return [_text(row.name), _text(row.backend), _text(row.precision), *numbers, verdict, _text(reason)]


def _verdict(verdict: str) -> str:
    return f"{MARKS.get(verdict, '!')} {_text(verdict)}"


def _number(value: Number) -> str:
    return f"**{value.text}**" if value.state == "nan" else value.text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> Iterator[str]:
    numeric = set(right)
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if i in numeric else '---' for i in range(len(head)))}|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _text(text: str) -> str:
    """Text as Markdown shows it literally inside a table cell."""
    for char in ("\\", "|", "<", "*", "_", "`"):
        text = text.replace(char, "&lt;" if char == "<" else f"\\{char}")
    return " ".join(text.split())
