"""When int8 costs too much: the cheapest tensors that suffice back to float, then everything."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from quantize.contest import Contest
from quantize.exchange import CHEAPEST_MS, Row, Table
from quantize.insert import convolutions, set_float
from quantize.judged import Judged
from quantize.knapsack import cheapest_cover

MIXED = "int8-mixed"


def within_bound(contest: Contest, chosen: Judged, table: Table) -> list[Judged]:
    """The rungs from ``chosen`` down to the first that loses no more than the bounds on the held-out pictures; float at the latest."""
    rungs = [chosen]
    if not contest.fits(chosen) and contest.config.mixed:
        found = mixed(contest, chosen, table)
        rungs += [found] if found is not None else []
    if not contest.fits(rungs[-1]):
        rungs.append(contest.float)
    return rungs


def mixed(contest: Contest, chosen: Judged, table: Table) -> Judged | None:
    """``chosen`` with the cheapest set of tensors in float that brings it within the bounds; None where no set short of all does.

    The set is solved from the table, where gains are taken to add up; the network itself is then measured, and as long as it loses
    too much, the tensors of the best exchange rate follow, twice as many each time.
    """
    names = solve(contest, chosen, table)
    spare, batch = [r.tensor for r in _by_need(contest, chosen, table) if r.tensor not in names], 1
    while True:
        candidate = in_float(contest, chosen, names)
        if not any(conv.quantized for conv in convolutions(candidate.network).values()):
            return None
        if contest.fits(candidate):
            return candidate
        if not spare:
            return None
        names, spare, batch = [*names, *spare[:batch]], spare[batch:], 2 * batch


def solve(contest: Contest, chosen: Judged, table: Table) -> list[str]:
    """The tensors that the knapsack picks: least added milliseconds such that both bounds are met by the table's gains."""
    drop, config = chosen.against(contest.float), contest.config
    needs = (
        _need(-drop.mean, config.max_drop, table.lost),
        _need(-drop.worst, config.max_drop_worst, table.lost_worst),
    )
    picked = cheapest_cover([r.ms for r in table.rows], [(r.db, r.db_worst) for r in table.rows], needs)
    return [table.rows[i].tensor for i in picked]


def in_float(contest: Contest, chosen: Judged, names: Sequence[str]) -> Judged:
    """``chosen`` with these tensors, and all that share their scales, in float."""
    network = copy.deepcopy(chosen.network)
    set_float(network, names)
    return contest.judge(MIXED, network, int8=True, float_tensors=tuple(names), trained=chosen.trained)


def _need(loss: float, bound: float, lost_on_crops: float) -> float:
    """What must be regained on the crops: the excess, at the rate at which the crops lose what the whole images lose."""
    excess = loss - bound
    return excess * max(1.0, lost_on_crops / loss) if excess > 0 else 0.0


def _by_need(contest: Contest, chosen: Judged, table: Table) -> list[Row]:
    drop, config = chosen.against(contest.float), contest.config
    by_mean = -drop.mean - config.max_drop >= -drop.worst - config.max_drop_worst
    return sorted(table.rows, key=lambda r: -(r.db if by_mean else r.db_worst) / max(r.ms, CHEAPEST_MS))
