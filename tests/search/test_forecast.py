from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.contract import Evidence
from pipeline.errors import UsageError
from search.forecast import forecasts, possible
from search.problem import Problem
from tests.search.small import pipeline_text, pipeline_tree


def value(forecast, name: str) -> float:
    return next(m.value for m in forecast.measurements if m.name == name)


@pytest.fixture
def problem(problem_of) -> Problem:
    return problem_of(overrides=("stages.student.with.widths=[16, 32]", "stages.student.with.depths=[1, 1]"))


def test_the_student_and_the_pruned_one(problem: Problem):
    plain, pruned = forecasts(problem.plan)
    assert (plain.what, pruned.what) == ("student", "student pruned evenly by 0.3")
    assert (plain.backend, plain.precision) == ("tensorrt", "int8")
    assert value(pruned, "params") < value(plain, "params")
    assert value(pruned, "macs") < value(plain, "macs")
    assert 0 < pruned.p90_ms < plain.p90_ms
    assert plain.p90_ms == value(plain, "latency_p50") * problem.plan.target.jitter_p90
    assert plain.budget_ms == 22.2
    assert {m.evidence for f in (plain, pruned) for m in f.measurements if m.name.startswith("latency")} == {Evidence.ESTIMATED}


def test_a_pruning_budget_is_no_ratio(problem_of):
    tree = pipeline_tree()
    del tree["stages"]["thin"]["with"]["ratio"]
    tree["stages"]["thin"]["with"]["to"] = {"macs": 0.5}
    assert [f.what for f in forecasts(problem_of(pipeline_text(tree)).plan)] == ["student"]


def test_without_quantization_it_stays_in_float(problem_of):
    tree = pipeline_tree()
    tree["stages"]["small"] = {"uses": "quantize.unquantized", "needs": tree["stages"]["small"]["needs"]}
    plain = next(forecasts(problem_of(pipeline_text(tree)).plan))
    assert plain.precision == "fp16"


def test_a_pipeline_without_a_student_of_ours(problem):
    assert possible(problem.plan) == ""
    without = replace(problem.plan, stages=tuple(s for s in problem.plan.stages if s.id != "student"))
    assert "there is no student to search" in possible(without)
    with pytest.raises(UsageError, match="there is no student to search"):
        next(forecasts(without))
