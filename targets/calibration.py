"""Learning the estimator's figures from microbenchmarks: time them, take them apart into units, fit each kind's cost.

A network's time is modelled as the sum over its units of launch + macs * us_per_mmac + bytes * us_per_mb, with non-negative figures for
each kind and precision: a non-negative least-squares problem (Lawson and Hanson, Solving Least Squares Problems, 1974, ch. 23) whose
rows are divided by the measured times, so that relative errors count. Networks are measured whole: there is no boundary between single
layers that a real network does not have.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.calibration import Recorded
from pipeline.errors import StageFailed
from pipeline.target import Calibration, KindCost, Precision, Rates, Target
from targets.estimator import peak_macs
from targets.kinds import units_of
from targets.layers import LayerCost, check_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

Key = tuple[str, str]
FOLDS = 5
PRIOR_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Row:
    """One timed network.

    ms        of one run
    features  (kind, precision) -> units of that kind, their 10**6 multiply-accumulates, their 10**6 bytes
    count     runs behind ``ms``
    """

    name: str
    ms: float
    features: Mapping[Key, tuple[float, float, float]]
    count: int = 1

    def to_json(self) -> dict[str, Any]:
        """As it stands in a calibration file."""
        terms = {f"{kind}:{precision}": [round(v, 6) for v in values] for (kind, precision), values in self.features.items()}
        return {"network": self.name, "ms": round(self.ms, 6), "count": self.count, "terms": terms}


def row_of(name: str, layers: Sequence[LayerCost], ms: float, count: int = 1) -> Row:
    """A timed network as a row; StageFailed for impossible layers or a time that is none."""
    check_layers(layers)
    if not (np.isfinite(ms) and ms > 0):
        raise StageFailed("targets.calibration", f"'{name}' took {ms} ms", "measure it again: a time is a positive number")
    return Row(name, ms, _features(layers), count)


def _features(layers: Sequence[LayerCost]) -> dict[Key, tuple[float, float, float]]:
    found: dict[Key, tuple[float, float, float]] = {}
    for unit in units_of(layers):
        n, macs, moved = found.get((unit.kind, unit.precision), (0.0, 0.0, 0.0))
        found[unit.kind, unit.precision] = (n + 1, macs + unit.macs / 1e6, moved + unit.moved / 1e6)
    return found


def fit(rows: Sequence[Row], rates: Rates, *, backend: str, precision: Precision, threads: int, machine: str = "") -> Calibration:
    """Learn the cost of every kind that the rows contain.

    Args:
        rows: at least twice as many as there are folds of the cross-validation; more than kinds, to mean anything.
        rates: of the processor; where the rows leave open how a time divides between kinds, it divides as by these.
        backend: which ran them: name of the folder in compile/.
        precision: of the networks.
        threads: CPU threads.
        machine: fingerprint of the machine that was measured.

    Returns:
        The costs; its ``error`` is the median relative error on rows left out of the fit (5 folds).

    Raises:
        StageFailed: too few rows.

    """
    if len(rows) < 2 * FOLDS:
        raise StageFailed("targets.calibration", f"{len(rows)} timed networks are too few", f"time at least {2 * FOLDS}")
    keys = sorted({key for row in rows for key in row.features})
    prior = np.array([v for key in keys for v in _nominal(key, rates)])
    figures = _solve(rows, keys, prior).reshape(-1, 3)
    seen = {key: sum(key in row.features for row in rows) for key in keys}
    costs = tuple(
        KindCost.model_validate({"kind": kind, "precision": p, "launch_us": a, "us_per_mmac": b, "us_per_mb": c, "networks": seen[kind, p]})
        for (kind, p), (a, b, c) in zip(keys, figures.tolist(), strict=True)
    )
    return Calibration(
        backend=backend,
        precision=precision,
        threads=threads,
        costs=costs,
        networks=len(rows),
        error=float(np.median(_left_out_errors(rows, keys, prior))),
        machine=machine,
    )


def _solve(rows: Sequence[Row], keys: Sequence[Key], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative least squares; faint extra rows hold each figure to the prior as far as the data leave it open."""
    from scipy.optimize import nnls

    matrix = _matrix(rows, keys)
    largest = matrix.max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)  # columns of like size: the solver's stopping rule is absolute
    faint = PRIOR_WEIGHT * np.eye(len(scale))
    known = np.where(largest > 0, prior * scale, 0.0)  # what no row has any of costs nothing
    stacked, wanted = np.vstack([matrix / scale, faint]), np.concatenate([np.ones(len(rows)), faint @ known])
    solution: NDArray[np.float64] = nnls(stacked, wanted, maxiter=50 * len(scale))[0] / scale
    return solution


def _nominal(key: Key, rates: Rates) -> tuple[float, float, float]:
    """Launch, microseconds per 10**6 multiply-accumulates and per 10**6 bytes by the roofline."""
    efficiency = rates.depthwise_efficiency if key[0].startswith("depthwise") else rates.compute_efficiency
    peak = peak_macs(rates, key[1]) * efficiency
    return rates.launch_us, 1e12 / peak, 1e3 / (rates.bandwidth_gbs * rates.memory_efficiency)


def _matrix(rows: Sequence[Row], keys: Sequence[Key]) -> NDArray[np.float64]:
    """Microseconds' coefficients over the measured time: [rows, 3 keys]."""
    blank = (0.0, 0.0, 0.0)
    return np.array([[v / (row.ms * 1e3) for key in keys for v in row.features.get(key, blank)] for row in rows])


def _left_out_errors(rows: Sequence[Row], keys: Sequence[Key], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    errors = np.empty(len(rows))
    for fold in range(FOLDS):
        out = list(range(fold, len(rows), FOLDS))
        rest = [row for i, row in enumerate(rows) if i % FOLDS != fold]
        errors[out] = np.abs(_matrix([rows[i] for i in out], keys) @ _solve(rest, keys, prior) - 1)
    return errors


def time_in_turn(
    calls: Mapping[str, Callable[[], object]],
    *,
    count: int = 10,
    quantile: float = 25,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, float]:
    """Milliseconds of each function, called in turn so that a drift of the machine meets them all.

    Args:
        calls: name -> function of no arguments; each is called twice to warm up.
        count: measured calls of each.
        quantile: of the times, 0-100: what else the machine does only ever adds time, so a low one is the network's own.
        clock: nanoseconds; ``time.process_time_ns`` where one thread runs on a core that others use too.

    """
    for call in calls.values():
        call(), call()
    taken: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(count):
        for name, call in calls.items():
            start = clock()
            call()
            taken[name].append(clock() - start)
    return {name: float(np.percentile(values, quantile)) / 1e6 for name, values in taken.items()}


def rows_of(layers: Mapping[str, Sequence[LayerCost]], ms: Mapping[str, float], count: int) -> list[Row]:
    """Rows of timed networks, from their layers and times by name."""
    return [row_of(name, layers[name], ms[name], count) for name in ms]


def learned(
    layers: Mapping[str, Sequence[LayerCost]],
    ms: Mapping[str, float],
    target: Target,
    *,
    backend: str,
    precision: Precision,
    threads: int,
    count: int,
    runs_on: Literal["cpu", "gpu"] = "cpu",
    machine: str = "",
    when: str = "",
    board: str = "",
) -> Recorded:
    """A calibration with the times behind it, as ``pipeline.calibration.record`` keeps it.

    Args:
        layers: of each microbenchmark by name, as ``eval.cost.onnx_layers`` reads them.
        ms: of one run of each, by the same names.
        target: whose processor was timed.
        backend: which ran them: name of the folder in compile/.
        precision: of the networks.
        threads: CPU threads.
        count: runs behind each time.
        runs_on: the processor.
        machine: fingerprint of the machine that was measured.
        when: time of the measurement, UTC.
        board: what was measured, in words.

    Raises:
        StageFailed: too few networks, a time that is none, or a processor that the target states no rates for.

    """
    rates = target.rates.get(runs_on)
    if rates is None:
        raise StageFailed(f"target {target.name}", f"states no rates for its {runs_on}", "add them to the target file")
    rows = rows_of(layers, ms, count)
    made = fit(rows, rates, backend=backend, precision=precision, threads=threads, machine=machine)
    return Recorded(runs_on=runs_on, calibration=made, rows=tuple(row.to_json() for row in rows), when=when, board=board)
