"""Where a long step stands: its rate, and the time that is left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

_WINDOW = 30.0
"""Seconds over which a rate is taken."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a long step stands.

    rate  steps per second, None before there are two readings
    eta   seconds left, None when it cannot be told
    """

    label: str
    done: int
    total: int
    scalars: Mapping[str, float]
    rate: float | None = None
    eta: float | None = None

    @property
    def finished(self) -> bool:
        """Whether it is the last reading."""
        return self.done >= self.total

    def line(self) -> str:
        """The reading as text: ``train 120/600 (20 %), 3.1/s, 2 min 35 s left, loss 0.0123``."""
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        parts = [f"{self.label} {self.done}/{self.total}{share}", self.pace(), self.scalars_text()]
        return ", ".join(p for p in parts if p)

    def pace(self) -> str:
        """Rate and time left as text, empty when unknown."""
        if not self.rate:
            return ""
        rate = f"{self.rate:.1f}/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s each"
        return f"{rate}, {clock_text(self.eta)} left" if self.eta is not None and not self.finished else rate

    def scalars_text(self) -> str:
        """The scalars as ``name value`` pairs."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.scalars.items())


def clock_text(seconds: float) -> str:
    """A span of time as ``45 s``, ``2 min 35 s`` or ``1 h 5 min``."""
    whole = math.ceil(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


@dataclass
class Meter:
    """Rate and time left of one step, over the last half minute, so that a resumed or warming-up step is not misjudged."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)
    printed: float = -math.inf
    sent: float = -math.inf

    def read(self, now: float, label: str, done: int, total: int, scalars: Mapping[str, float]) -> Reading:
        """Take note of ``done`` at the time ``now`` (seconds)."""
        if self.seen and done < self.seen[-1][1]:
            self.seen.clear()
        self.seen.append((now, done))
        while len(self.seen) > 2 and now - self.seen[1][0] > _WINDOW:
            self.seen.popleft()
        then, before = self.seen[0]
        rate = (done - before) / (now - then) if now > then and done > before else None
        return Reading(label, done, total, dict(scalars), rate, (total - done) / rate if rate else None)
