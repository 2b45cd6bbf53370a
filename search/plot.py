"""The front as a drawing: gain over estimated latency, one SVG file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from search.front import Outcome, Point
from search.problem import Problem
from search.space import in_short

WIDTH, HEIGHT = 760.0, 470.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 30.0, 82.0, 62.0
_NEAR = 3.0  # a budget farther away than this many times the slowest point would squeeze them all into a corner

_STYLE = """
:root { --card: #ffffff; --ink: #1b1d20; --soft: #5c6168; --line: #e3e4e6; --front: #96600a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --card: #1b1d20; --ink: #e9eaec; --soft: #9aa0a8; --line: #2e3136; --front: #e7b15a; --bad: #ff8f85; }
}
text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--soft); }
.card { fill: var(--card); } .grid { stroke: var(--line); } .base { stroke: var(--soft); }
.title { font-size: 15px; font-weight: 650; fill: var(--ink); } .number { fill: var(--ink); font-size: 12px; }
.budget { stroke: var(--ink); stroke-dasharray: 4 3; } .step { fill: none; stroke: var(--front); stroke-width: 1.5; }
.front { fill: var(--front); stroke: var(--front); } .other, .over { fill: none; stroke: var(--soft); stroke-width: 1.5; }
.over { stroke: var(--bad); }
.end { text-anchor: end; } .middle { text-anchor: middle; }
"""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to pixels, with its ticks."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """One that shows all values, with a margin."""
        low, high = min(values), max(values)
        margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        return cls(low - margin, high + margin, start, end)

    def place(self, value: float) -> float:
        """The pixel of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round values within the scale."""
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span / 5))
        step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= 6)
        first = math.ceil(self.low / step)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step) + 1)]


def draw(problem: Problem, found: Outcome) -> str:
    """The drawing as SVG text; the budget is a dashed line, points over it are red, those not on the front are hollow.

    Args:
        problem: the target and its limits.
        found: at least one point.
    """
    points, target = (*found.front, *found.others), problem.plan.target
    budget = problem.limits.budget_ms / target.jitter_p90
    near = budget <= _NEAR * max(p.ms for p in points)
    x = Axis.over([*(p.ms for p in points), *([budget] if near else [])], LEFT, WIDTH - RIGHT)
    y = Axis.over([p.gain for p in points], HEIGHT - BOTTOM, TOP)
    samples = points[0].row("psnr_gain").samples
    counts = f"{len(found.front)} on the front, {len(found.others)} other points, {len(found.unlucky)} trials without result"
    counts += "" if near else f"; the budget is {problem.limits.budget_ms:g} ms at p90"
    gained = f"dB gained by proxies of {problem.steps} steps, on {samples} calibration images, measured on the machine that searched"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" width="{WIDTH:g}" height="{HEIGHT:g}">',
        f"<title>Pareto front of {escape(problem.plan.path.name)} for {escape(target.name)}</title><style>{_STYLE}</style>",
        f'<rect class="card" width="{WIDTH:g}" height="{HEIGHT:g}" rx="10"></rect>',
        f'<text class="title" x="{LEFT:g}" y="28">{escape(f"{problem.plan.path.name} for {target.name}")}</text>',
        f'<text x="{LEFT:g}" y="46">{counts}</text>',
        f'<text x="{LEFT:g}" y="68">{gained}</text>',
        *_axes(x, y, f"ms for one {target.frame.width}x{target.frame.height} frame, estimated for {target.name}"),
        *(_budget(x, budget, problem.limits.budget_ms) if near else ()),
        _staircase(found.front, x.place, y.place),
        *(_mark(p, "over" if p.over else "other", x, y) for p in found.others),
        *(_mark(p, "over" if p.over else "front", x, y) for p in found.front),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _axes(x: Axis, y: Axis, label: str) -> list[str]:
    floor, left, right = HEIGHT - BOTTOM, LEFT, WIDTH - RIGHT
    parts = [f'<line class="base" x1="{left:g}" x2="{right:g}" y1="{floor:g}" y2="{floor:g}"></line>']
    for tick in x.ticks():
        parts.append(f'<text class="middle" x="{x.place(tick)}" y="{floor + 18:g}">{tick:g}</text>')
    for tick in y.ticks():
        at = y.place(tick)
        parts.append(f'<line class="grid" x1="{left:g}" x2="{right:g}" y1="{at}" y2="{at}"></line>')
        parts.append(f'<text class="end" x="{left - 8:g}" y="{at + 4:g}">{_signed(tick)}</text>')
    return [*parts, f'<text class="middle" x="{(left + right) / 2:g}" y="{floor + 42:g}">{escape(label)}</text>']


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "\N{MINUS SIGN}") if value else "0"


def _budget(x: Axis, at_ms: float, p90: float) -> list[str]:
    at = x.place(at_ms)
    anchor, shift = ("end", -6) if at > WIDTH * 0.6 else ("start", 6)
    return [
        f'<line class="budget" x1="{at}" x2="{at}" y1="{TOP:g}" y2="{HEIGHT - BOTTOM:g}"></line>',
        f'<text x="{at + shift}" y="{HEIGHT - BOTTOM - 8:g}" text-anchor="{anchor}">p90 of {p90:g} ms: the budget</text>',
    ]


def _staircase(front: Sequence[Point], px: Callable[[float], float], py: Callable[[float], float]) -> str:
    """What the front reaches at each latency: flat until a slower point is better."""
    path = f"M {px(front[0].ms)} {py(front[0].gain)}"
    for point in front[1:]:
        path += f" H {px(point.ms)} V {py(point.gain)}"
    return f'<path class="step" d="{path}"></path>'


def _mark(point: Point, tone: str, x: Axis, y: Axis) -> str:
    at, high = x.place(point.ms), y.place(point.gain)
    hint = f"trial {point.trial}: {point.gain:+.3f} dB, {point.ms:.3g} ms, {in_short(point.params)}"
    return (
        f'<g><title>{escape(hint)}</title><circle class="{tone}" cx="{at}" cy="{high}" r="5"></circle>'
        f'<text class="number" x="{at + 8:g}" y="{high - 6:g}">{point.trial}</text></g>'
    )
