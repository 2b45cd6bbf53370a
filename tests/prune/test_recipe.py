"""The shipped recipe for the literature's 20 % plans for every target, and is what it says."""

from pathlib import Path

import pytest

from pipeline.config import load_pipeline
from pipeline.plan import make_plan
from pipeline.target import known_targets, load_target

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "prune-20-percent.yaml"


@pytest.mark.parametrize("target", known_targets())
def test_it_plans_for_every_target(target):
    plan = make_plan(RECIPE, load_pipeline(RECIPE), load_target(target))
    assert [s.id for s in plan.stages] == ["teach", "distill", "prune", "quantize", "compile", "benchmark"]


def test_it_removes_a_fifth_of_every_layer_by_l1_norm():
    plan = make_plan(RECIPE, load_pipeline(RECIPE), load_target("host"))
    config = next(s.config for s in plan.stages if s.id == "prune")
    assert (config.ratio, config.importance, config.by_sensitivity) == (0.2, "l1", False)


def test_its_second_command_shares_by_sensitivity():
    override = ("stages.prune.with.allocate=sensitivity",)
    assert override[0] in RECIPE.read_text()
    plan = make_plan(RECIPE, load_pipeline(RECIPE, override), load_target("host"))
    assert next(s.config for s in plan.stages if s.id == "prune").by_sensitivity
