"""Geometry of the chart: one small bar panel per quantity, the same stages in every panel.

Quantities of different units never share a scale, and neither do latencies of different origin or frame size: each has its own panel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.report.measured import Latency
from pipeline.report.numbers import Number, number
from pipeline.report.view import RunView

WIDTH = 420.0
ROW = 26.0
LABELS = 92.0
VALUES = 78.0
_AREA = WIDTH - LABELS - VALUES


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage in one panel; x and width in the panel's units. ``below``: the bar runs to the left of the baseline."""

    stage: str
    y: float
    x: float
    width: float
    number: Number
    below: bool = False

    @property
    def end(self) -> float:
        """Where the number is written: right of the bar."""
        return self.x + self.width + 6


@dataclass(frozen=True, slots=True)
class Mark:
    """A vertical line at a value worth knowing, such as the budget."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity over the stages. ``tone`` is a CSS class: plain, host, estimated or target."""

    title: str
    subtitle: str
    tone: str
    bars: tuple[Bar, ...]
    baseline: float
    mark: Mark | None = None

    @property
    def height(self) -> float:
        """Height of the drawing."""
        return ROW * (len(self.bars) + (self.mark is not None)) + 4


def panels(view: RunView) -> tuple[Panel, ...]:
    """PSNR, size, speedup, and one panel per kind of latency, each when at least one stage has it."""
    return tuple(p for p in (_quality(view), _size(view), _speedup(view), *_latency_panels(view)) if p is not None)


def _quality(view: RunView) -> Panel | None:
    base = _blurred(view)
    values = [v for s in view.stages if (v := _finite(s.measured["psnr"])) is not None]
    if not values:
        return None
    start = base if base is not None else math.floor(min(values)) - 1.0
    what = f"the blurred input, {number(start, 'dB').text}" if base is not None else number(start, "dB").text
    return _panel("PSNR", f"bars start at {what}", "plain", [(s.id, s.measured["psnr"]) for s in view.stages], start)


def _blurred(view: RunView) -> float | None:
    """PSNR of the blurred input: what a stage reached less what it gained."""
    pairs = ((_finite(s.measured["psnr"]), _finite(s.measured["psnr_gain"])) for s in view.stages)
    return next((p - g for p, g in pairs if p is not None and g is not None), None)


def _size(view: RunView) -> Panel | None:
    if all(_finite(s.measured["size"]) is None for s in view.stages):
        return None
    return _panel("Size", "of what the stage hands on", "plain", [(s.id, s.measured["size"]) for s in view.stages], 0.0)


def _speedup(view: RunView) -> Panel | None:
    rows = [(s.id, s.measured["speedup"]) for s in view.stages if _finite(s.measured["speedup"]) is not None]
    return _panel("Speedup", "over what came in, timed in turn on this host; bars start at 1", "host", rows, 1.0) if rows else None


def _latency_panels(view: RunView) -> Iterator[Panel]:
    found = [(s, item) for s in view.stages for item in s.measured.latencies]
    for key in dict.fromkeys(item.series for _, item in found):
        rows = {s.id: item.number for s, item in reversed(found) if item.series == key}
        sample = next(item for _, item in found if item.series == key)
        stages = [(s.id, rows[s.id]) for s in view.stages if s.id in rows]
        subtitle = f"{sample.origin}, {sample.frame_text}"
        yield _panel(f"Latency {sample.percentile}", subtitle, sample.evidence, stages, 0.0, _budget(view, sample))


def _budget(view: RunView, sample: Latency) -> float | None:
    return view.budget_ms if sample.of_target(view.frame) and sample.number.text.endswith(" ms") else None


def _panel(title: str, subtitle: str, tone: str, rows: list[tuple[str, Number]], start: float, budget: float | None = None) -> Panel:
    known = [start, *(v for _, n in rows if (v := _finite(n)) is not None), *([budget] if budget is not None else [])]
    low, span = min(known), max(known) - min(known) or 1.0

    def place(value: float) -> float:
        return LABELS + _AREA * (value - low) / span

    bars = tuple(_bar(stage, i, n, place, start) for i, (stage, n) in enumerate(rows))
    mark = Mark(place(budget), f"budget {number(budget, 'ms').text}") if budget is not None else None
    return Panel(title, subtitle, tone, bars, place(start), mark)


def _bar(stage: str, index: int, value: Number, place: Callable[[float], float], start: float) -> Bar:
    at, base = _finite(value), place(start)
    end = base if at is None else place(at)
    width = 0.0 if at is None else max(abs(end - base), 1.5)
    return Bar(stage, ROW * index + ROW / 2 + 2, min(base, end), width, value, below=end < base)


def _finite(value: Number) -> float | None:
    return value.value if value.value is not None and math.isfinite(value.value) else None
