"""Sharing a budget out: which widths save enough for the least predicted loss.

A multiple-choice knapsack over the exchange table, solved exactly by dynamic programming on a grid of savings. The table holds each
group alone; where two groups meet in one layer, their savings overlap. So the plan is checked on the network itself, and asked to save
more (or less) until the whole fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prune.groups import Plan
from prune.sensitivity import Price, Table

Currency = Literal["ms_saved", "macs_saved"]

GRID = 2000
ATTEMPTS = 8
SLACK = 0.03
"""A plan that saves up to this much more than asked for, relatively, is good enough."""


@dataclass(frozen=True, slots=True)
class Option:
    """One width of a group, the share of the whole network's cost that it saves, and the dB that it is predicted to lose."""

    width: int
    saved: float
    drop: float


@dataclass(frozen=True, slots=True)
class Solution:
    """A plan, the share of the cost that it saves on the network itself, whether that is enough, and the dB that it may lose."""

    plan: Plan
    saved: float
    reached: bool
    drop: float


def options(price: Price, currency: Currency, base: float, multiple: int, max_ratio: float) -> list[Option]:
    """Every width that a group may have, the present one first; losses and savings never fall as channels go."""
    found = [Option(price.width, 0.0, 0.0)]
    least = max(multiple, price.width * (1 - max_ratio))
    width = (price.width - 1) // multiple * multiple
    while price.levels and width >= least:
        removed = price.width - width
        drop = max(_between(price, "psnr_risk", removed), 1e-6 * removed, found[-1].drop)
        found.append(Option(width, max(_between(price, currency, removed) / base, found[-1].saved), drop))
        width -= multiple
    return found


def _between(price: Price, field: str, removed: int) -> float:
    """Measured where it was; in proportion to the channels between the levels and beyond the last. Rising and never negative."""
    at = [0, *(level.removed for level in price.levels)]
    values = np.maximum.accumulate([0.0, *(getattr(level, field) for level in price.levels)])
    return float(np.interp(removed, at, values) if removed <= at[-1] else values[-1] * removed / at[-1])


def allocate(choices: Sequence[Sequence[Option]], saving: float) -> list[Option] | None:
    """One option of each group, saving at least ``saving`` together for the least sum of drops; None where they cannot.

    Savings are rounded down to a grid of ``saving / GRID``, so that what is promised is kept.
    """
    best = np.full(GRID + 1, np.inf)  # [b]: least loss to have saved at least b steps of the grid
    best[0] = 0.0
    picked = []
    for group in choices:
        steps = [min(GRID, int(o.saved / saving * GRID)) for o in group]
        pile = np.stack([best[np.maximum(np.arange(GRID + 1) - step, 0)] + o.drop for step, o in zip(steps, group, strict=True)])
        choice = pile.argmin(0)
        picked.append((steps, choice))
        best = pile.min(0)
    if not np.isfinite(best[GRID]):
        return None
    taken, at = [], GRID
    for group, (steps, choice) in zip(reversed(choices), reversed(picked), strict=True):
        taken.append(group[choice[at]])
        at = max(0, at - steps[choice[at]])
    return taken[::-1]


def solve(table: Table, currency: Currency, saving: float, multiple: int, max_ratio: float, saved_by: Callable[[Plan], float]) -> Solution:
    """The cheapest plan that saves at least ``saving`` (a share of the whole cost, 0 to 1) on the network itself.

    Args:
        table: the exchange table.
        currency: what is saved.
        saving: how much of it.
        multiple: widths are multiples of this.
        max_ratio: largest share that one group loses.
        saved_by: plan -> share of the cost that the network cut to it saves, measured or estimated.
    """
    base = table.ms if currency == "ms_saved" else table.macs
    choices = [options(p, currency, base, multiple, max_ratio) for p in table.prices]
    tried: list[Solution] = []
    asked, enough, too_little = saving, np.inf, 0.0
    for _ in range(ATTEMPTS):
        taken = allocate(choices, asked) or [group[-1] for group in choices]
        plan = {p.group: o.width for p, o in zip(table.prices, taken, strict=True)}
        known = next((s.saved for s in tried if s.plan == plan), None)
        found = saved_by(plan) if known is None else known
        tried.append(Solution(plan, found, found >= saving, sum(o.drop for o in taken)))
        exhausted = found < saving and all(o is group[-1] for o, group in zip(taken, choices, strict=True))
        if exhausted or saving <= found <= saving * (1 + SLACK):
            break
        enough, too_little = (asked, too_little) if found >= saving else (enough, asked)
        asked *= float(np.clip(saving * (1 + SLACK / 3) / max(found, 1e-6), 0.5, 1.5))
        if not too_little < asked < enough:  # widths come in steps: what was asked for is between two of them
            asked = (too_little + enough) / 2
    good = [s for s in tried if s.reached]
    return min(good, key=lambda s: s.drop) if good else max(tried, key=lambda s: s.saved)
