from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from pipeline.errors import StageFailed
from pipeline.target import Calibration, KindCost, Rates
from targets.calibration import fit, learned, row_of, time_in_turn
from targets.estimator import cost_of, estimate
from targets.kinds import FRAME, Unit, units_of
from targets.layers import LayerCost

RATES = Rates(
    macs={"fp32": 0.05, "int8": 0.2}, bandwidth_gbs=20, compute_efficiency=0.5, depthwise_efficiency=0.2, memory_efficiency=0.5, launch_us=3
)
TRUE = {FRAME: (7.0, 0.0, 0.0), "dense": (2.0, 10.0, 50.0), "pointwise": (3.0, 15.0, 80.0), "resize": (1.0, 0.0, 200.0)}


def conv(width: int, kernel: int, side: int) -> LayerCost:
    pixels, weights = side * side, width * width * kernel * kernel
    return LayerCost(f"c{width}-{kernel}", "Conv", False, pixels * weights, pixels * width, pixels * width, weights, "fp32")


def resize(width: int, side: int) -> LayerCost:
    return LayerCost("up", "Resize", False, 0, side * side * width, 4 * side * side * width, 0, "fp32")


def true_ms(layers: list[LayerCost], costs: dict[str, tuple[float, float, float]] = TRUE) -> float:
    units = units_of(layers)
    return sum(costs[u.kind][0] + costs[u.kind][1] * u.macs / 1e6 + costs[u.kind][2] * u.moved / 1e6 for u in units) / 1e3


def networks() -> dict[str, list[LayerCost]]:
    found = {}
    for width, side, repeat in itertools.product((16, 24, 32, 64), (4, 16, 64), (1, 3)):
        bodies = {
            "d": [conv(width, 3, side)] * repeat,
            "p": [conv(width, 1, side)] * repeat,
            "r": [conv(width, 3, side), resize(width, side)] * repeat,
        }
        found |= {f"{kind}{width}-{side}-{repeat}": body for kind, body in bodies.items()}
    return found


def fitted(**change: float) -> Calibration:
    rows = [row_of(name, layers, true_ms(layers) * change.get(name, 1.0)) for name, layers in networks().items()]
    return fit(rows, RATES, backend="onnxruntime", precision="fp32", threads=1, machine="abc")


def test_the_figures_behind_exact_times_are_found_again():
    found = fitted()
    assert found.error < 0.02
    assert (found.networks, found.backend, found.machine) == (72, "onnxruntime", "abc")
    costs = {c.kind: c for c in found.costs}
    assert set(costs) == set(TRUE)
    for kind in ("dense", "pointwise"):
        assert costs[kind].us_per_mmac == pytest.approx(TRUE[kind][1], rel=0.1)
    assert costs["resize"].us_per_mb == pytest.approx(TRUE["resize"][2], rel=0.1)


def test_figures_are_never_negative_and_an_outlier_shows_in_the_error():
    wild = fitted(**dict.fromkeys(list(networks())[::3], 3.0))
    assert all(min(c.launch_us, c.us_per_mmac, c.us_per_mb) >= 0 for c in wild.costs)
    assert wild.error > 0.1


def test_a_calibrated_estimate_predicts_an_unseen_network():
    rates = RATES.model_copy(update={"calibrations": (fitted(),)})
    unseen = [conv(24, 3, 40), conv(24, 1, 40), resize(24, 40), conv(24, 3, 80)]
    found = estimate(unseen, rates, backend="onnxruntime")
    assert found.ms == pytest.approx(true_ms(unseen), rel=0.03)
    assert found.model == "calibrated"
    assert found.ms == pytest.approx(math.fsum(found.by_kind().values()))
    assert [t.name for t in found.layers] == [FRAME, *(layer.name for layer in unseen)]


@pytest.mark.parametrize("change", [{"backend": ""}, {"backend": "tvm"}, {"backend": "onnxruntime", "fuse": False}])
def test_without_a_calibration_of_that_backend_the_roofline_stays(change: dict[str, object]):
    rates = RATES.model_copy(update={"calibrations": (fitted(),)})
    layers = [conv(24, 3, 40)]
    found = estimate(layers, rates, **change)
    assert (found.model, found.ms) == ("roofline", estimate(layers, RATES, fuse=bool(change.get("fuse", True))).ms)


def test_a_calibration_in_another_precision_is_not_used():
    rates = RATES.model_copy(update={"calibrations": (fitted(),)})
    assert estimate([replace(conv(24, 3, 40), precision="int8")], rates, backend="onnxruntime").model == "roofline"


def test_a_backend_may_be_named_by_its_import_path():
    rates = RATES.model_copy(update={"calibrations": (fitted(),)})
    assert estimate([conv(24, 3, 40)], rates, backend="compile.onnxruntime").model == "calibrated"


def test_a_kind_without_data_keeps_the_roofline_and_the_estimate_says_so():
    rates = RATES.model_copy(update={"calibrations": (fitted(),)})
    concat = LayerCost("cat", "Concat", False, 0, 10**6, 10**6, 0, "fp32")
    found = estimate([conv(24, 3, 40), concat], rates, backend="onnxruntime")
    assert found.layers[-1].ms == estimate([concat], RATES).layers[0].ms
    assert not found.layers[-1].calibrated
    share = found.layers[-1].ms / found.ms
    assert found.model == f"calibrated; {share:.0%} of it by the roofline (concat)"


def test_an_unmeasured_combination_falls_back_on_its_kind():
    calibration = fitted()
    dense = next(c for c in calibration.costs if c.kind == "dense")
    assert cost_of(Unit("dense+hardswish", "fp32", 1, 1, (0,)), calibration) == dense
    assert cost_of(Unit("narrow+clip", "fp32", 1, 1, (0,)), calibration) == dense
    assert cost_of(Unit("depthwise", "fp32", 1, 1, (0,)), calibration) is None
    assert cost_of(Unit("dense", "int8", 1, 1, (0,)), calibration) is None


def test_of_two_calibrations_the_later_counts():
    slow = fitted().model_copy(
        update={"costs": (KindCost(kind="dense", precision="fp32", launch_us=1e6, us_per_mmac=0, us_per_mb=0, networks=1),)}
    )
    rates = RATES.model_copy(update={"calibrations": (fitted(), slow)})
    assert estimate([conv(24, 3, 40)], rates, backend="onnxruntime").ms == pytest.approx(1000)


@pytest.mark.parametrize("ms", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(ms: float):
    with pytest.raises(StageFailed, match="a time is a positive number"):
        row_of("x", [conv(8, 3, 8)], ms)


def test_too_few_networks_are_refused():
    with pytest.raises(StageFailed, match="1 timed networks are too few"):
        fit([row_of("x", [conv(8, 3, 8)], 1.0)], RATES, backend="b", precision="fp32", threads=1)


def test_functions_are_called_in_turn_and_timed_by_the_given_clock():
    order: list[str] = []
    now = itertools.count(0, 1_000_000)
    found = time_in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, count=3, clock=lambda: next(now))
    assert order == ["a", "a", "b", "b", *"ababab"]
    assert found == {"a": 1.0, "b": 1.0}


def test_what_is_learned_carries_the_times_behind_it_and_reads_back(tmp_path):
    from pipeline.calibration import record, refined
    from pipeline.target import load_target

    board, layers = load_target("raspberry-pi-5"), networks()
    ms = {name: true_ms(body) for name, body in layers.items()}
    made = learned(layers, ms, board, backend="tvm", precision="fp32", threads=4, count=7)
    assert [row["network"] for row in made.rows] == list(layers)
    assert {row["count"] for row in made.rows} == {7}
    record(tmp_path, board, [made])
    found = estimate([conv(24, 3, 40)], refined(board, tmp_path).rates["cpu"], backend="tvm")
    assert (found.model, found.ms) == ("calibrated", pytest.approx(true_ms([conv(24, 3, 40)]), rel=0.03))


def test_a_processor_without_rates_cannot_learn():
    from pipeline.target import load_target

    with pytest.raises(StageFailed, match="states no rates for its gpu"):
        learned(networks(), {}, load_target("raspberry-pi-5"), backend="tvm", precision="fp32", threads=0, count=1, runs_on="gpu")
