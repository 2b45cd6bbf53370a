from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from pipeline.contract import Better, Evidence, Measurement
from pipeline.serial import measurement_to_json
from search.front import Outcome, outcome
from search.full import best
from search.plot import Axis, draw
from search.table import show_front, show_runs
from search.trial import REASON, ROWS, SAME

SVG = "{http://www.w3.org/2000/svg}"


def rows(gain: float, ms: float) -> list[dict]:
    found = [
        Measurement("psnr_gain", gain, "dB", Better.HIGHER, 16, Evidence.HOST),
        Measurement("latency_p50", ms, "ms", Better.LOWER, 1, Evidence.ESTIMATED),
        Measurement("macs", 0.5, "G", Better.LOWER, 1, Evidence.HOST),
        Measurement("params", 0.1, "M", Better.LOWER, 1, Evidence.HOST),
        Measurement("size", 0.3, "MB", Better.LOWER, 1, Evidence.HOST),
    ]
    return [measurement_to_json(m) for m in found]


@pytest.fixture
def outcome_of(problem_of, picked):
    def make(*points: tuple, unlucky: str = "") -> Outcome:
        """Points are (gain, ms), (gain, ms, constraints) or (gain, ms, constraints, the trial it is the same as)."""
        study = optuna.create_study(directions=["maximize", "minimize"])
        fixed = {name: optuna.distributions.CategoricalDistribution([value]) for name, value in picked.items()}
        for gain, ms, *more in points:
            attrs = {ROWS: rows(gain, ms)} | ({SAME: more[1]} if len(more) > 1 else {})
            constraints = more[0] if more else {"latency": -0.5}
            study.add_trial(create_trial(values=[gain, ms], params=picked, distributions=fixed, user_attrs=attrs, constraints=constraints))
        if unlucky:
            study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: unlucky}))
        return outcome(study.trials)

    return make


def numbers(points) -> list[int]:
    return [p.trial for p in points]


def test_the_front_is_what_nothing_beats_in_both(outcome_of):
    found = outcome_of((1.0, 10.0), (0.5, 5.0), (0.9, 12.0), (1.0, 10.0), (0.4, 5.0), (1.2, 30.0))
    assert numbers(found.front) == [1, 0, 5] and numbers(found.others) == [2, 3, 4] and found.within_limits
    assert numbers(best(found, 2)) == [5, 0]


def test_points_over_a_limit_are_no_front_unless_there_is_nothing_else(outcome_of):
    found = outcome_of((2.0, 30.0, {"latency": 0.2, "size": -0.1}), (1.0, 10.0, {"latency": -0.1, "size": 0.0}))
    assert numbers(found.front) == [1] and found.others[0].over == ("latency",)
    alone = outcome_of((2.0, 30.0, {"latency": 0.2}), (1.0, 25.0, {"size": 0.1}))
    assert numbers(alone.front) == [1, 0] and not alone.within_limits


def test_a_repeated_trial_counts_once_and_one_without_result_keeps_its_reason(outcome_of):
    found = outcome_of((1.0, 10.0), (1.0, 10.0, {"latency": -0.5}, 0), unlucky="failed: distill: diverged")
    assert numbers(found.front) == [0] and found.others == () and found.unlucky == ((2, "failed: distill: diverged"),)


def test_the_drawing_has_every_point_where_it_belongs(outcome_of, problem_of):
    found = outcome_of((1.0, 10.0), (0.5, 5.0), (0.4, 8.0), (2.0, 30.0, {"latency": 0.5}), unlucky="x")
    tree = ET.fromstring(draw(problem_of(), found))
    circles = {g.find(f"{SVG}title").text.partition(":")[0]: g.find(f"{SVG}circle").attrib for g in tree.findall(f"{SVG}g")}
    assert {k: c["class"] for k, c in circles.items()} == {"trial 0": "front", "trial 1": "front", "trial 2": "other", "trial 3": "over"}
    x, y = ([float(circles[f"trial {i}"][axis]) for i in range(4)] for axis in ("cx", "cy"))
    assert x[1] < x[2] < x[0] < x[3] and y[3] < y[0] < y[1] < y[2], "SVG counts y downwards"
    words = " ".join(t.text for t in tree.iter(f"{SVG}text"))
    assert "ms for one 1920x1080 frame, estimated for jetson-xavier" in words and "p90 of 22.2 ms: the budget" in words
    assert "16 calibration images, measured on the machine that searched" in words and "1 trials without result" in words


def test_one_point_and_a_far_budget_draw_as_well(outcome_of, problem_of):
    tree = ET.fromstring(draw(problem_of(), outcome_of((0.0, 1.0))))
    words = " ".join(t.text for t in tree.iter(f"{SVG}text"))
    assert "the budget is 22.2 ms at p90" in words and tree.find(f"{SVG}line[@class='budget']") is None


@pytest.mark.parametrize("values", [(1.0,), (0.0, 0.0), (-3.2, 4.7), (1e-6, 2e-6), (12.0, 12.4, 900.0)])
def test_an_axis_shows_all_values_and_a_few_round_ticks(values):
    axis = Axis.over(values, 100.0, 500.0)
    assert all(100 <= axis.place(v) <= 500 for v in values)
    assert 2 <= len(axis.ticks()) <= 7 and all(axis.low <= t <= axis.high for t in axis.ticks())


def table(problem, found, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    show_front(problem, found, {p.trial: f"/out/trial-{p.trial}.yaml" for p in found.front}, console)
    return console.export_text()


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_says_where_its_numbers_come_from(outcome_of, problem_of, width: int):
    problem = problem_of(steps=300)
    text = table(problem, outcome_of((1.0, 10.0), (0.25, 5.0), unlucky="failed: because"), width)
    assert "+0.25 dB" in text and "5.00 ms" in text and "0.500 G" in text and "0.100 M" in text
    assert "ms: p50 of one 1920x1080 frame, estimated for jetson-xavier; the budget is 22.2 ms at p90, which is 1.1 x p50" in text
    assert "gain: PSNR over the blurred input of 16 calibration images, measured on this host after 300 training steps" in text
    assert "trial 2: failed: because" in text and "ready to run: /out/trial-1.yaml" in text and "16x(1,2) depth 1,1+1" in text


def test_the_table_says_that_the_limits_are_broken(outcome_of, problem_of):
    text = table(problem_of(), outcome_of((1.0, 30.0, {"latency": 0.3})), 120)
    assert "no point keeps to the limits: this is the front of those that break them; widen the space" in text


def test_full_runs_show_only_estimates_as_the_board_s(capsys):
    measured = [{"name": "latency_p90", "value": 9.0, "unit": "ms", "evidence": "host"}, {"name": "psnr_gain", "value": 0.5, "unit": "dB"}]
    run = {"trial": 3, "verdict": "passed", "run": "/runs/1", "error": None, "measurements": measured}
    console = Console(width=160, record=True, file=io.StringIO())
    show_runs([run], "jetson-xavier", console)
    text = console.export_text()
    assert "+0.50 dB" in text and "9.0" not in text and "p90 estimated for jetson-xavier" in text
