from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Gate
from pipeline.contract import Better, Evidence, Measurement, Verdict
from pipeline.errors import UsageError
from pipeline.gates import judge
from pipeline.target import Target, load_target


@pytest.fixture
def board(target_file) -> Target:
    return load_target(str(target_file))


def measured(name="psnr", value=30.0, values=(), evidence=Evidence.HOST, better=Better.HIGHER, unit="dB", **conditions) -> Measurement:
    return Measurement(name, value, unit, better, max(1, len(values)), evidence, conditions, tuple(values))


@pytest.mark.parametrize(
    ("gate", "value", "verdict"),
    [
        ({"at_least": 30}, 30.0, Verdict.PASSED),
        ({"at_least": 30}, 29.999, Verdict.FAILED),
        ({"at_least": 30}, math.nan, Verdict.FAILED),
        ({"at_most": 30}, math.nan, Verdict.FAILED),
        ({"at_most": 30}, math.inf, Verdict.FAILED),
        ({"at_most": 30}, 30.0, Verdict.PASSED),
    ],
)
def test_bounds(board, gate, value, verdict):
    assert judge(Gate(metric="psnr", **gate), [measured(value=value)], {}, board).verdict is verdict


@given(st.sampled_from(["at_least", "at_most"]), st.floats(-1e6, 1e6))
def test_nan_never_passes(rule, bound):
    board = Target.model_construct()
    assert judge(Gate(metric="psnr", **{rule: bound}), [measured(value=math.nan)], {}, board).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("better", "rule", "mine", "other", "value"),
    [
        (Better.HIGHER, "drop_at_most", 29.0, 30.0, 1.0),
        (Better.LOWER, "drop_at_most", 29.0, 30.0, -1.0),
        (Better.HIGHER, "gain_at_least", 31.0, 30.0, 1.0),
        (Better.LOWER, "gain_at_least", 28.0, 30.0, 2.0),
    ],
)
def test_the_direction_is_the_measurement_s_own(board, better, rule, mine, other, value):
    gate = Gate(metric="m", against="a", **{rule: 0.5})
    outcome = judge(gate, [measured("m", mine, better=better)], {"a": [measured("m", other, better=better)]}, board)
    assert outcome.value == pytest.approx(value)
    passed = value <= 0.5 if rule == "drop_at_most" else value >= 0.5
    assert outcome.verdict is (Verdict.PASSED if passed else Verdict.FAILED)


def test_worst_sees_the_ruined_image_that_the_mean_hides(board):
    mine, other = measured(values=[30.0] * 19 + [26.0], value=29.8), measured(values=[30.0] * 20, value=30.0)
    mean = Gate(metric="psnr", drop_at_most=0.3, against="a")
    worst = Gate(metric="psnr", drop_at_most=0.3, against="a", statistic="worst")
    assert judge(mean, [mine], {"a": [other]}, board).verdict is Verdict.PASSED
    outcome = judge(worst, [mine], {"a": [other]}, board)
    assert (outcome.verdict, outcome.value) == (Verdict.FAILED, 4.0)


def test_ci_takes_the_pessimistic_end(board):
    noisy = [30.0 + (1 if i % 2 else -1) for i in range(20)]
    gate = Gate(metric="psnr", drop_at_most=0.2, against="a", statistic="ci")
    outcome = judge(gate, [measured(values=noisy)], {"a": [measured(values=[30.0] * 20)]}, board)
    assert outcome.verdict is Verdict.FAILED and 0.3 < outcome.value < 0.6


@pytest.mark.parametrize("statistic", ["worst", "ci", "mean"])
def test_a_nan_image_fails_every_statistic(board, statistic):
    mine = measured(values=[30.0, math.nan], value=math.nan)
    gate = Gate(metric="psnr", drop_at_most=5, against="a", statistic=statistic)
    assert judge(gate, [mine], {"a": [measured(values=[30.0, 30.0])]}, board).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("rows", "gate", "reason"),
    [
        ([], {"at_least": 1}, "no measurement 'psnr'"),
        ([measured()], {"at_least": 1, "evidence": "estimated"}, "no 'psnr' with evidence 'estimated'"),
        ([measured()], {"at_least": 1, "unit": "MB"}, "'psnr' is in dB, the bound in MB"),
        ([measured(stable=False)], {"at_least": 1}, "the timing was unstable, so it proves nothing"),
        ([measured()], {"drop_at_most": 1, "against": "a"}, "a: no measurement 'psnr'"),
        (
            [measured()],
            {"drop_at_most": 1, "against": "b", "statistic": "worst"},
            "statistic 'worst' needs per-image values of both stages",
        ),
    ],
)
def test_no_evidence_is_not_a_pass(board, rows, gate, reason):
    outcome = judge(Gate(metric="psnr", **gate), rows, {"b": [measured()]}, board)
    assert (outcome.verdict, outcome.reason) == (Verdict.UNPROVEN, reason)


def test_the_device_s_own_number_satisfies_weaker_evidence(board):
    rows = [measured("latency_p90", 50, evidence=Evidence.ESTIMATED), measured("latency_p90", 20, evidence=Evidence.TARGET)]
    gate = Gate(metric="latency_p90", at_most="target.latency_budget_ms", evidence="estimated")
    outcome = judge(gate, rows, {}, board)
    assert (outcome.bound, outcome.value, outcome.evidence, outcome.verdict) == (33.3, 20, "target", Verdict.PASSED)


def test_the_target_s_budget_is_not_held_against_this_machine_s_time(board):
    host, estimated = (
        measured("latency_p90", value, better=Better.LOWER, unit="ms", evidence=e)
        for value, e in ((900, Evidence.HOST), (9, Evidence.ESTIMATED))
    )
    gate = Gate(metric="latency_p90", at_most="target.latency_budget_ms")
    found = judge(gate, [host, estimated], {}, board)
    assert (found.verdict, found.value) == (Verdict.PASSED, 9)
    assert judge(gate, [host], {}, board).verdict is Verdict.UNPROVEN
    assert judge(Gate(metric="latency_p90", at_most=22.2), [host, estimated], {}, board).value == 900, "a number may be this machine's"


def test_required_target_evidence_leaves_an_estimate_unproven(board):
    rows = [measured("latency_p90", 20, evidence=Evidence.ESTIMATED)]
    gate = Gate(metric="latency_p90", at_most=30, evidence="estimated")
    assert judge(gate, rows, {}, board, Evidence.TARGET).verdict is Verdict.UNPROVEN
    assert judge(Gate(metric="psnr", at_least=1), [measured()], {}, board, Evidence.TARGET).verdict is Verdict.PASSED


def test_an_unknown_target_field(board):
    with pytest.raises(UsageError, match="gate on psnr: the target has no number 'budget'"):
        judge(Gate(metric="psnr", at_most="target.budget"), [measured()], {}, board)
