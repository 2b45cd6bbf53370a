from __future__ import annotations

import pytest

from pipeline.errors import UsageError
from tests.search.small import pipeline_text, pipeline_tree


def test_the_stages_are_found_by_what_they_use(problem_of):
    problem = problem_of()
    assert (problem.student.id, problem.prune.id, problem.quantize.id) == ("student", "thin", "small")
    assert problem.tail == ("student", "thin", "small"), "compiling is left to full runs"
    assert (problem.limits.budget_ms, problem.limits.size_mb, problem.limits.factor) == (22.2, 3.2, 1.2)


def test_gates_of_the_pipeline_are_the_limits(problem_of):
    tree = pipeline_tree()
    tree["stages"]["compile"]["gates"] = [
        {"metric": "latency_p90", "at_most": 5},
        {"metric": "size", "at_most": "target.latency_budget_ms"},
    ]
    limits = problem_of(pipeline_text(tree)).limits
    assert (limits.budget_ms, limits.size_mb) == (5.0, 22.2)
    tree["stages"]["compile"]["gates"] = []
    limits = problem_of(pipeline_text(tree), "host").limits
    assert (limits.budget_ms, limits.size_mb) == (1000.0, None)


def test_a_pipeline_without_pruning_or_int8_has_fewer_dimensions(problem_of):
    tree = pipeline_tree()
    del tree["stages"]["thin"]
    tree["stages"]["small"] |= {"uses": "quantize.unquantized", "with": {}, "needs": {"model": "student.model"}, "gates": []}
    problem = problem_of(pipeline_text(tree))
    assert (problem.prune, problem.quantize, problem.space.prune, problem.space.precision) == (None, None, (0.0,), ("float",))
    assert problem.tail == ("student", "small")


def without_student(tree: dict) -> None:
    tree["stages"] = {"guide": tree["stages"]["guide"]}


def two_students(tree: dict) -> None:
    tree["stages"]["twin"] = tree["stages"]["student"]


def loaded(tree: dict) -> None:
    tree["stages"]["student"]["with"] = {"weights": __file__}


def other_arch(tree: dict) -> None:
    tree["stages"]["student"]["with"] = {"arch": "nafnet"}


def alone(tree: dict) -> None:
    tree["stages"] = {id_: tree["stages"][id_] for id_ in ("guide", "student")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_student, "small.yaml: stages: no stage uses distill.student, so there is no student to search\nhint: add one: "),
        (two_students, "small.yaml: stages: 2 stages use distill.student: student, twin\nhint: search a pipeline with one student"),
        (loaded, "small.yaml: stages.student.with.weights: 'test_problem.py' fixes the student\nhint: remove it"),
        (other_arch, "small.yaml: stages.student.with.arch: 'nafnet' is not searched\nhint: use the architecture 'student'"),
        (
            alone,
            "small.yaml: data.calibrate: is not read by any stage, but proxies are trained on 'train' and judged on 'calibrate'\nhint: ",
        ),
    ],
)
def test_a_pipeline_that_cannot_be_searched_is_refused(problem_of, change, message: str):
    tree = pipeline_tree()
    change(tree)
    with pytest.raises(UsageError) as e:
        problem_of(pipeline_text(tree))
    assert str(e.value).startswith(message)
