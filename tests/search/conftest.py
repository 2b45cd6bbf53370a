from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load_pipeline
from pipeline.plan import make_plan
from pipeline.target import load_target
from search.problem import Problem, make_problem
from search.space import SearchSpace
from search.study import open_study
from tests.search.small import PICKED, SPACE, pipeline_text
from tests.threads import one_thread

__all__ = ["one_thread"]


@pytest.fixture
def problem_of(tmp_path: Path):
    def make(
        text: str = "", target: str = "jetson-xavier", steps: int = 4, space: dict | None = None, overrides: tuple[str, ...] = ()
    ) -> Problem:
        path = tmp_path / "small.yaml"
        path.write_text(text or pipeline_text())
        plan = make_plan(path, load_pipeline(path, overrides), load_target(target))
        return make_problem(plan, SearchSpace.model_validate(SPACE | (space or {})), steps)

    return make


@pytest.fixture
def study_of(tmp_path: Path):
    def make(problem: Problem, name: str = "search", file: str = "study.db"):
        return open_study(problem, f"sqlite:///{tmp_path / file}", name)

    return make


@pytest.fixture
def picked() -> dict:
    return dict(PICKED)
