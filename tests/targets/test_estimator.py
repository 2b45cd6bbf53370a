from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StageFailed
from pipeline.target import Rates
from targets.estimator import LayerCost, estimate, peak_macs, retype

RATES = Rates(
    macs={"int8": 10.0, "fp16": 5.0, "fp32": 1.0},
    bandwidth_gbs=100,
    compute_efficiency=0.5,
    depthwise_efficiency=0.1,
    memory_efficiency=0.5,
    launch_us=10,
)
CONV = LayerCost("conv", "Conv", False, 10**10, 10**6, 10**6, 10**4, "int8")


def one(layer: LayerCost, **options: bool):
    return estimate([layer], RATES, **options).layers[0]


def test_a_compute_bound_layer_by_hand():
    # 1e10 MAC / (10e12 * 0.5) = 2 ms; bytes: 2.01e6 / 50e9 = 0.04 ms; launch 0.01 ms
    assert one(CONV).ms == pytest.approx(2.01)
    assert one(CONV).bound == "compute"


def test_a_memory_bound_layer_by_hand():
    # (1e7 + 1e7 + 0) * 4 bytes / (100e9 * 0.5) = 1.6 ms
    layer = LayerCost("resize", "Resize", False, 0, 10**7, 10**7, 0, "fp32")
    assert one(layer).ms == pytest.approx(1.61)
    assert one(layer).bound == "memory"


def test_a_launch_bound_layer_by_hand():
    layer = LayerCost("gate", "Conv", False, 1000, 100, 100, 100, "fp32")
    assert one(layer).bound == "launch"
    assert one(layer).ms == pytest.approx(0.01, rel=0.01)


def test_a_depthwise_layer_uses_its_own_efficiency():
    assert one(replace(CONV, depthwise=True)).ms == pytest.approx(10.01)


def test_precision_decides_rate_and_bytes():
    slow = replace(CONV, macs=0)
    by_precision = [one(replace(slow, precision=p)).ms - 0.01 for p in ("int8", "fp16", "fp32")]
    assert by_precision == pytest.approx([2.01e6 / 50e9 * 1e3 * b for b in (1, 2, 4)])
    assert one(replace(CONV, precision="fp16")).ms == pytest.approx(4.01)


def test_an_epilogue_is_fused_and_pays_for_its_second_operand_only():
    relu = LayerCost("relu", "Relu", False, 0, 10**6, 10**6, 0, "fp32")
    add = LayerCost("add", "Add", False, 0, 2 * 10**6, 10**6, 0, "fp32")
    found = estimate([CONV, relu, add], RATES)
    assert [t.bound for t in found.layers] == ["compute", "fused", "fused"]
    assert found.layers[1].ms == 0
    assert found.layers[2].ms == pytest.approx(10**6 / 50e9 * 1e3)  # int8 like the convolution it is part of
    assert found.ms == pytest.approx(math.fsum(t.ms for t in found.layers))
    apart = estimate([CONV, relu, add], RATES, fuse=False)
    assert apart.ms > found.ms
    assert [t.bound for t in apart.layers] == ["compute", "memory", "memory"]


@pytest.mark.parametrize("layers", [["add"], ["conv", "resize", "add"], ["conv", "wider"]])
def test_what_does_not_follow_a_convolution_of_its_size_is_not_fused(layers: list[str]):
    known = {
        "conv": CONV,
        "resize": LayerCost("resize", "Resize", False, 0, 10**6, 10**6, 0, "fp32"),
        "add": LayerCost("add", "Add", False, 0, 2 * 10**6, 10**6, 0, "fp32"),
        "wider": LayerCost("mul", "Mul", False, 0, 10**6, 4 * 10**6, 0, "fp32"),
    }
    assert estimate([known[name] for name in layers], RATES).layers[-1].bound != "fused"


def test_totals_by_bound():
    found = estimate([CONV, LayerCost("resize", "Resize", False, 0, 10**7, 10**7, 0, "fp32")], RATES)
    assert found.by_bound() == pytest.approx({"compute": 2.01, "memory": 1.61})


def test_retype_moves_floats_only():
    layers = retype([CONV, replace(CONV, precision="fp32")], "fp16")
    assert [layer.precision for layer in layers] == ["int8", "fp16"]


counts = st.integers(0, 10**9)


@given(macs=counts, reads=counts, weights=counts, writes=st.integers(1, 10**9), more=st.integers(1, 10**9), field=st.sampled_from(range(4)))
def test_more_work_never_takes_less_time(macs: int, reads: int, weights: int, writes: int, more: int, field: int):
    layer = LayerCost("x", "Conv", False, macs, reads, writes, weights, "fp16")
    name = ("macs", "read_elements", "write_elements", "weight_elements")[field]
    larger = replace(layer, **{name: getattr(layer, name) + more})
    assert one(larger).ms >= one(layer).ms
    assert math.isfinite(one(larger).ms)
    assert one(larger).ms > 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"macs": -1}, "impossible counts"),
        ({"macs": math.nan}, "impossible counts"),
        ({"read_elements": math.inf}, "impossible counts"),
        ({"write_elements": 0}, "impossible counts"),
        ({"precision": "int3"}, "unknown precision 'int3'"),
    ],
)
def test_impossible_layers_are_refused(change: dict[str, float], text: str):
    with pytest.raises(StageFailed, match=text):
        estimate([replace(CONV, **change)], RATES)


def test_no_layer_is_refused():
    with pytest.raises(StageFailed, match="no layer to estimate"):
        estimate([], RATES)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_that_is_no_number_is_refused(rate: float):
    broken = RATES.model_copy(update={"macs": {"int8": rate}})
    with pytest.raises(StageFailed, match="states no rate for int8"):
        peak_macs(broken, "int8")


def test_a_missing_rate_names_the_field():
    with pytest.raises(StageFailed, match=r"no rate for bf16 \(it has fp16, fp32, int8\)\nhint: add it to rates"):
        peak_macs(RATES, "bf16")
