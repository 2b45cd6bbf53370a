"""Sharing a budget out, against exhaustive search and on made-up tables whose answer is known."""

from itertools import product

import numpy as np
import pytest

from prune.allocate import Option, allocate, options, solve
from prune.sensitivity import Level, Price, Table


def price(name, width, *levels):
    return Price(name, width, (name,), tuple(Level(removed, 0.0, risk, ms, ms / 10) for removed, risk, ms in levels))


def table(*prices, ms=10.0):
    return Table(prices, 30.0, ms, ms / 10, "host", {}, 1)


def test_options_are_measured_in_between_and_beyond():
    found = options(price("a", 64, (16, 0.1, 2.0), (32, 0.3, 3.0)), "ms_saved", 10.0, 8, 0.75)
    assert [o.width for o in found] == [64, 56, 48, 40, 32, 24, 16]
    assert [o.drop for o in found] == pytest.approx([0, 0.05, 0.1, 0.2, 0.3, 0.375, 0.45])
    assert [o.saved for o in found] == pytest.approx([0, 0.1, 0.2, 0.25, 0.3, 0.375, 0.45])


def test_noise_never_makes_removing_channels_a_gain():
    found = options(price("a", 32, (8, -0.5, -1.0), (16, 0.1, 2.0)), "ms_saved", 10.0, 8, 0.6)
    drops, saved = [o.drop for o in found], [o.saved for o in found]
    assert drops == sorted(drops)
    assert saved == sorted(saved)
    assert min(drops) == min(saved) == 0


def test_no_group_loses_more_than_its_share_nor_its_last_multiple():
    assert [o.width for o in options(price("a", 20, (4, 0.1, 1.0)), "ms_saved", 10.0, 8, 0.9)] == [20, 16, 8]
    assert [o.width for o in options(price("a", 64, (16, 0.1, 1.0)), "ms_saved", 10.0, 8, 0.25)] == [64, 56, 48]
    assert [o.width for o in options(price("a", 8), "ms_saved", 10.0, 8, 0.9)] == [8]


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_as_good_as_exhaustive_search(seed):
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(5):
        saved, drop = np.cumsum(rng.random(4)) / 20, np.cumsum(rng.random(4))
        groups.append(
            [Option(64, 0.0, 0.0), *(Option(int(56 - 8 * i), *map(float, pair)) for i, pair in enumerate(zip(saved, drop, strict=True)))]
        )
    wanted = 0.25
    best = min(sum(o.drop for o in c) for c in product(*groups) if sum(o.saved for o in c) >= wanted * 1.005)
    taken = allocate(groups, wanted)
    assert sum(o.saved for o in taken) >= wanted
    assert sum(o.drop for o in taken) <= best


def test_what_cannot_be_saved_is_not_promised():
    assert allocate([[Option(8, 0.0, 0.0), Option(4, 0.1, 1.0)]], 0.2) is None


def test_the_cheap_group_pays():
    rows = table(price("cheap", 64, (16, 0.01, 1.0)), price("dear", 64, (16, 1.0, 1.0)))
    found = solve(rows, "ms_saved", 0.2, 8, 0.75, lambda plan: sum(64 - w for w in plan.values()) / 160)
    assert found.reached
    assert found.plan == {"cheap": 32, "dear": 64}


def test_overlapping_savings_are_made_good():
    rows = table(price("a", 64, (16, 0.1, 2.0)), price("b", 64, (16, 0.1, 2.0)))

    def saved_by(plan):  # both widths are factors of the same layer
        return 0.8 * (1 - plan["a"] / 64 * plan["b"] / 64)

    found = solve(rows, "ms_saved", 0.5, 8, 0.75, saved_by)
    assert found.reached
    assert found.saved == saved_by(found.plan) >= 0.5


def test_a_budget_out_of_reach_gives_the_most_and_says_so():
    rows = table(price("a", 64, (16, 0.1, 1.0)))
    found = solve(rows, "ms_saved", 0.9, 8, 0.5, lambda plan: (64 - plan["a"]) / 160)
    assert not found.reached
    assert found.plan == {"a": 32}


def test_a_table_that_promises_too_little_does_not_make_it_prune_everything():
    rows = table(price("a", 64, (16, 0.1, 0.1)), price("b", 64, (16, 0.3, 0.1)))
    asked = []

    def saved_by(plan):
        asked.append(plan)
        return 0.9 * (1 - plan["a"] / 64 * plan["b"] / 64)

    found = solve(rows, "ms_saved", 0.3, 8, 0.75, saved_by)
    assert found.reached
    assert found.plan == {"a": 40, "b": 64}
    assert len(asked) == len({tuple(p.items()) for p in asked})


def test_macs_are_a_currency_too():
    rows = table(price("a", 64, (16, 0.1, 1.0)))
    found = solve(rows, "macs_saved", 0.15, 8, 0.5, lambda plan: (64 - plan["a"]) / 160)
    assert found.plan == {"a": 40}
