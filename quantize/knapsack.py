"""Which tensors to return to float: the cheapest set that regains enough, a 0/1 covering knapsack with two constraints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVELS = 100
_EACH = 1e-6  # ms that every item costs besides: of equally cheap sets, the smaller one


def cheapest_cover(costs: Sequence[float], gains: Sequence[tuple[float, float]], needs: tuple[float, float]) -> list[int]:
    """Indices of the items with the least total cost whose gains add up to both needs, in increasing order.

    Exact by dynamic programming over both sums, on a grid of ``LEVELS`` steps per need: gains are rounded down to it, so what it
    returns does cover; a set that covers by less than a step may be passed over. Negative costs and gains count as 0. Where all
    items together do not cover, all that gain something are returned.

    Args:
        costs: of each item.
        gains: of each item, towards the first and the second need.
        needs: at most 0: nothing is needed there.
    """
    steps = np.stack([_steps([g[d] for g in gains], needs[d]) for d in (0, 1)], axis=1)
    targets = tuple(LEVELS if need > 0 else 0 for need in needs)
    useful = [i for i in range(len(costs)) if (steps[i] > 0).any()]
    if any(steps[:, d].sum() < targets[d] for d in (0, 1)):
        return [i for i, g in enumerate(gains) if any(gain > 0 and need > 0 for gain, need in zip(g, needs, strict=True))]
    best = np.full((targets[0] + 1, targets[1] + 1), np.inf)
    best[0, 0] = 0.0
    taken: list[NDArray[np.bool_]] = []
    for i in useful:
        with_it = _reached(best, steps[i]) + max(costs[i], 0.0) + _EACH
        taken.append(with_it < best)
        best = np.minimum(best, with_it)
    return sorted(_walk_back(useful, taken, steps, targets))


def _steps(gains: Sequence[float], need: float) -> NDArray[np.int64]:
    if need <= 0:
        return np.zeros(len(gains), np.int64)
    shares = np.clip(np.nan_to_num(np.asarray(gains, float)) / need, 0.0, 1.0)
    steps: NDArray[np.int64] = np.floor(shares * LEVELS + 1e-9).astype(np.int64)
    return steps


def _reached(best: NDArray[np.float64], step: NDArray[np.int64]) -> NDArray[np.float64]:
    """[a, b]: the cheapest way to be, before this item, where it leads to at least (a, b)."""
    rows = np.maximum(np.arange(best.shape[0]) - step[0], 0)
    columns = np.maximum(np.arange(best.shape[1]) - step[1], 0)
    out: NDArray[np.float64] = best[rows[:, None], columns[None, :]]
    return out


def _walk_back(useful: Sequence[int], taken: Sequence[NDArray[np.bool_]], steps: NDArray[np.int64], targets: tuple[int, ...]) -> list[int]:
    at, chosen = list(targets), []
    for i, took in zip(reversed(useful), reversed(taken), strict=True):
        if took[at[0], at[1]]:
            chosen.append(i)
            at = [max(0, a - int(s)) for a, s in zip(at, steps[i], strict=True)]
    return chosen
