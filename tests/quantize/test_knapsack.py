import itertools

import numpy as np
import pytest

from quantize.knapsack import LEVELS, cheapest_cover


def brute_force(costs, gains, needs):
    sets = (s for k in range(len(costs) + 1) for s in itertools.combinations(range(len(costs)), k))
    covers = [s for s in sets if all(sum(gains[i][d] for i in s) >= needs[d] for d in (0, 1))]
    return min((sum(costs[i] for i in s) for s in covers), default=None)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_as_cheap_as_trying_all_sets(seed):
    draw = np.random.default_rng(seed)
    costs = draw.integers(1, 30, 9).astype(float)
    needs = (1.0, 2.0) if seed % 2 else (1.0, 0.0)
    gains = [(a / LEVELS, 2 * b / LEVELS) for a, b in draw.integers(0, 60, (9, 2))]  # on the grid: no rounding
    best = brute_force(costs, [(round(a, 9), round(b, 9)) for a, b in gains], tuple(n - 1e-9 for n in needs))
    picked = cheapest_cover(costs, gains, needs)
    if best is None:
        assert len(picked) == sum(any(g > 0 and n > 0 for g, n in zip(row, needs, strict=True)) for row in gains)
    else:
        assert sum(costs[i] for i in picked) == pytest.approx(best)
        assert all(sum(gains[i][d] for i in picked) >= needs[d] - 1e-9 for d in (0, 1))


def test_what_it_returns_covers_off_the_grid_too():
    draw = np.random.default_rng(1)
    gains = [tuple(g) for g in draw.random((40, 2)) * 0.1]
    picked = cheapest_cover(draw.random(40), gains, (0.5, 0.7))
    assert sum(gains[i][0] for i in picked) >= 0.5
    assert sum(gains[i][1] for i in picked) >= 0.7
    assert len(picked) < 40


def test_the_cheapest_is_not_the_most_sensitive():
    assert cheapest_cover([10.0, 1.0, 1.0], [(1.0, 0), (0.5, 0), (0.5, 0)], (1.0, 0.0)) == [1, 2]


def test_nothing_is_needed():
    assert cheapest_cover([1.0, 1.0], [(1, 1), (1, 1)], (0.0, -1.0)) == []


def test_the_second_need_alone():
    assert cheapest_cover([1.0, 2.0], [(9.0, 0.1), (0.0, 1.0)], (0.0, 1.0)) == [1]


def test_of_equally_cheap_sets_the_smaller_one():
    assert cheapest_cover([0.0, 0.0, 0.0], [(0.5, 0), (0.5, 0), (1.0, 0)], (1.0, 0.0)) == [2]


def test_negative_costs_and_gains_count_as_nothing():
    assert cheapest_cover([-5.0, 1.0], [(-1.0, 0), (1.0, 0)], (1.0, 0.0)) == [1]


def test_what_cannot_be_covered_takes_all_that_helps():
    assert cheapest_cover([1.0, 1.0, 1.0], [(0.2, 0), (0.0, 0.0), (0.3, 0)], (1.0, 0.0)) == [0, 2]
