from __future__ import annotations

import time

import pytest

from eval.latency import LatencyResult, compare, latency_measurements, speedup
from pipeline.contract import Evidence
from pipeline.errors import StageFailed


def test_calls_are_interleaved_and_warm_up_is_apart():
    order: list[str] = []
    results = compare({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, min_seconds=0, min_count=3, warmup=2)
    assert order == ["a", "a", "b", "b", *"ab" * 3]
    assert [len(r.ms) for r in results.values()] == [3, 3]


def test_both_minimum_duration_and_count_hold():
    result = compare({"a": lambda: time.sleep(0.002)}, min_seconds=0.05, min_count=3, warmup=0)["a"]
    assert sum(result.ms) >= 50 and len(result.ms) >= 3 and result.p50 >= 2


def test_percentiles_and_stability():
    steady = LatencyResult(tuple(10 + 0.01 * i for i in range(100)))
    assert steady.p50 == pytest.approx(10.495) and steady.p90 < steady.p99 and steady.stable
    assert not LatencyResult((1, 10, 2, 30, 3, 60)).stable


def test_speedup_pairs_the_rounds():
    assert speedup(LatencyResult((10, 20, 30)), LatencyResult((5, 10, 15))) == 2


def test_measurements_carry_frame_threads_and_evidence():
    rows = latency_measurements(LatencyResult((1.0, 2.0, 3.0)), height=256, width=128, threads=1, backend="x")
    assert [m.name for m in rows] == ["latency_p50", "latency_p90", "latency_p99"]
    assert rows[0].value == 2 and rows[0].evidence is Evidence.HOST and rows[0].unit == "ms" and rows[0].samples == 3
    assert rows[0].conditions["frame"] == "128x256" and rows[0].conditions["threads"] == 1


def test_nothing_to_measure():
    with pytest.raises(StageFailed, match="nothing to measure"):
        compare({})
