"""What a reader of a report sees, in the order of the run: the one place that turns report.json into rows and words.

The three renderers (Markdown, HTML, terminal) only lay these out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import UsageError
from pipeline.report.measured import Latency, Measured, is_replayed, read_measurements
from pipeline.report.numbers import MISSING, NAN, Number, duration, label, number, origin, parse, significant

SCHEMA = 1

MARKS = {
    "passed": "✓",
    "failed": "✗",
    "unproven": "?",
    "ran": "●",
    "restored": "↺",
    "retreated": "↩",
    "skipped": "○",
}
"""A sign for every status and verdict, so that none rests on colour alone."""


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One alternative that a stage judged."""

    name: str
    backend: str
    precision: str
    chosen: bool
    reason: str
    measured: Measured

    @property
    def others(self) -> str:
        """What was measured beside quality, size and latency, as text."""
        speed = self.measured["speedup"]
        first = [f"speedup {speed.text}"] if speed.value is not None else []
        return ", ".join([*first, *(f"{o.name} {o.number.text}" for o in self.measured.others)])


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage; ``delta`` is its PSNR less that of the stage before it that has one."""

    id: str
    title: str
    uses: str
    status: str
    seconds: Number
    delta: Number
    measured: Measured
    notes: tuple[str, ...]
    candidates: tuple[CandidateRow, ...]
    error: str

    @property
    def worth_details(self) -> bool:
        """Whether there is more to say than the stage table does."""
        return bool(self.error or self.notes or self.candidates or self.measured.others)

    def numbers(self) -> tuple[Number, ...]:
        """psnr, ssim, psnr_worst5, delta, params, macs, size: the stage table's columns."""
        m = self.measured
        return (m["psnr"], m["ssim"], m["psnr_worst5"], self.delta, m["params"], m["macs"], m["size"])


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate: what it asks, what it found, how far off it is (``margin`` is positive when the bound is met)."""

    stage: str
    metric: str
    rule: str
    bound: Number
    value: Number
    margin: Number
    origin: str
    evidence: str
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure worth a tile at the top: what it is, the number, and a line under it."""

    caption: str
    number: Number
    detail: str
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """The whole run."""

    target: str
    title: str
    frame: str
    budget_ms: float | None
    verdict: str
    seconds: Number
    started: str
    bundle: str
    host: tuple[tuple[str, str], ...]
    stages: tuple[StageRow, ...]
    gates: tuple[GateRow, ...]
    headlines: tuple[Headline, ...]


def build(report: Mapping[str, Any]) -> RunView:
    """Read report.json.

    Raises:
        UsageError: the report is of another schema.

    """
    if report.get("schema") != SCHEMA:
        what = f"has schema {report.get('schema')!r}, this version reads {SCHEMA}"
        raise UsageError("report.json", what, "render it with the version that wrote it, or run again")
    target = str(report.get("target", "?"))
    stages = _stages(report, target)
    return RunView(
        target=target,
        title=str(report.get("target_title") or ""),
        frame=str(report.get("frame") or ""),
        budget_ms=parse(report.get("latency_budget_ms")),
        verdict=str(report.get("verdict", "unknown")),
        seconds=duration(report.get("seconds")),
        started=_moment(str(report.get("started") or "")),
        bundle=str(report.get("bundle") or ""),
        host=tuple(_flat(report.get("host") or {})),
        stages=stages,
        gates=tuple(_gate(g, s, target) for s in report.get("stages", ()) for g in s.get("gates", ())),
        headlines=_headlines(stages, parse(report.get("latency_budget_ms")), str(report.get("frame") or "")),
    )


def _stages(report: Mapping[str, Any], target: str) -> tuple[StageRow, ...]:
    rows: list[StageRow] = []
    for stage in report.get("stages", ()):
        before = next((r for r in reversed(rows) if r.measured["psnr"].value is not None), None)
        rows.append(_stage(stage, before, target))
    return tuple(rows)


def _stage(stage: Mapping[str, Any], before: StageRow | None, target: str) -> StageRow:
    measured = read_measurements(stage.get("measurements", ()), target)
    return StageRow(
        id=str(stage["id"]),
        title=str(stage.get("title") or stage["id"]),
        uses=str(stage.get("uses", "")),
        status=str(stage.get("status", "unknown")),
        seconds=duration(stage.get("seconds"), hint=f"measured {_moment(str(stage.get('measured_at') or '?'))}"),
        delta=_delta(measured, before),
        measured=measured,
        notes=tuple(str(n) for n in stage.get("notes", ())),
        candidates=tuple(_candidate(c, target) for c in stage.get("candidates", ())),
        error=str(stage.get("error") or ""),
    )


def _delta(measured: Measured, before: StageRow | None) -> Number:
    now, then = measured["psnr"], before.measured["psnr"] if before else Number()
    if now.value is None or then.value is None or before is None:
        return Number()
    return number(now.value - then.value, "dB", signed=True, hint=f"PSNR against {before.id}")


def _candidate(entry: Mapping[str, Any], target: str) -> CandidateRow:
    return CandidateRow(
        name=str(entry.get("name", "?")),
        backend=str(entry.get("backend") or MISSING),
        precision=str(entry.get("precision") or MISSING),
        chosen=bool(entry.get("chosen")),
        reason=str(entry.get("reason", "")),
        measured=read_measurements(entry.get("measurements", ()), target),
    )


def _gate(gate: Mapping[str, Any], stage: Mapping[str, Any], target: str) -> GateRow:
    metric, rule = str(gate.get("metric", "?")), str(gate.get("rule", ""))
    same = [m for m in stage.get("measurements", ()) if m.get("name") == metric]
    unit = str(gate.get("unit") or (same[0].get("unit") if same else "") or "")
    found, verdict = gate.get("value"), str(gate.get("verdict", "unknown"))
    if found is None and verdict == "failed":
        found = NAN  # JSON has no NaN; a gate cannot fail without a value
    bound, value = number(gate.get("bound"), unit, metric=metric), number(found, unit, metric=metric)
    evidence = str(gate.get("evidence") or "")
    replayed = any(is_replayed(m) for m in same if m.get("evidence") == evidence)
    return GateRow(
        stage=str(stage["id"]),
        metric=metric,
        rule=rule_in_words(metric, rule, bound.text, str(gate.get("against") or "?"), str(gate.get("statistic") or "mean")),
        bound=bound,
        value=value,
        margin=_margin(rule, bound, value, unit, metric),
        origin=origin(evidence, target, replayed) if evidence else MISSING,
        evidence=evidence,
        verdict=verdict,
        reason=str(gate.get("reason") or ""),
    )


def rule_in_words(metric: str, rule: str, bound: str, against: str, statistic: str = "mean") -> str:
    """A gate's rule in words, e.g. "PSNR: at most 0.30 dB worse than distill"."""
    phrases = {
        "at_least": f"at least {bound}",
        "at_most": f"at most {bound}",
        "drop_at_most": f"at most {bound} worse than {against}",
        "gain_at_least": f"at least {bound} better than {against}",
    }
    ends = {"ci": ", at the pessimistic end of a 95 % interval", "worst": ", on the single worst image"}
    name = label(metric)
    return f"{name[0].upper()}{name[1:]}: {phrases.get(rule, f'{rule} {bound}')}{ends.get(statistic, '')}"


def _margin(rule: str, bound: Number, value: Number, unit: str, metric: str) -> Number:
    if bound.value is None or value.value is None:
        return Number()
    room = value.value - bound.value if rule in {"at_least", "gain_at_least"} else bound.value - value.value
    # bound and value are already in the shown unit
    shown = bound.text.rpartition(" ")[2] if " " in bound.text else unit
    return number(room, shown, metric=metric, signed=True, hint="room left; negative when the bound is not met")


def _headlines(stages: tuple[StageRow, ...], budget: float | None, frame: str) -> tuple[Headline, ...]:
    latency = _latency_headline(stages, budget, frame)
    found = (_quality_headline(stages), _drop_headline(stages), _last_headline(stages, "size", "size"), latency)
    return tuple(h for h in found if h is not None)


def _quality_headline(stages: tuple[StageRow, ...]) -> Headline | None:
    last = next((s for s in reversed(stages) if s.measured["psnr"].value is not None), None)
    if last is None:
        return None
    gain = parse(last.measured["psnr_gain"].value)
    detail = f"after {last.id}" if gain is None else f"{number(gain, 'dB', signed=True).text} over the blurred input, after {last.id}"
    return Headline("PSNR", last.measured["psnr"], detail)


def _drop_headline(stages: tuple[StageRow, ...]) -> Headline | None:
    scored = [s for s in stages if s.measured["psnr"].value is not None]
    if len(scored) < 2:
        return None
    first, last = scored[0], scored[-1]
    change = (last.measured["psnr"].value or 0.0) - (first.measured["psnr"].value or 0.0)
    return Headline(f"PSNR, {first.id} to {last.id}", number(change, "dB", signed=True), _share(scored))


def _share(scored: list[StageRow]) -> str:
    counts = [n for s in scored if (n := s.measured["params"].value)]
    if len(counts) < 2:
        return f"over {len(scored)} stages"
    return f"with {100 * counts[-1] / counts[0]:.0f} % of the parameters"


def _last_headline(stages: tuple[StageRow, ...], metric: str, caption: str) -> Headline | None:
    last = next((s for s in reversed(stages) if s.measured[metric].value is not None), None)
    return Headline(caption.capitalize(), last.measured[metric], f"after {last.id}") if last else None


def _latency_headline(stages: tuple[StageRow, ...], budget: float | None, frame: str) -> Headline | None:
    rank = {"target": 2, "estimated": 1, "host": 0}
    rows: list[Latency] = [row for s in stages for row in s.measured.latencies]
    if not rows:
        return None
    best = max(enumerate(rows), key=lambda item: (rank.get(item[1].evidence, -1), item[0]))[1]
    limit = f", budget {significant(budget)} ms" if budget is not None and best.of_target(frame) else ""
    return Headline(f"Latency {best.percentile}", best.number, f"{best.origin}, {best.frame_text}{limit}", best.evidence)


def _moment(text: str) -> str:
    """An ISO 8601 time as "2026-03-01 12:00:03 UTC"; anything else as it is."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return text


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in tree.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        rows += _flat(value, f"{name} ") if isinstance(value, Mapping) else [(name, str(value))]
    return rows
