from __future__ import annotations

from pathlib import Path

import pytest

from eval.bundle import artifact_layers
from pipeline.contract import Evidence
from pipeline.errors import StageFailed
from quantize.artifact import ModelFolder
from search.candidate import candidate
from search.cost import cost_of, folder_cost
from targets.estimator import estimate
from tests.search.small import Quiet


def cost(problem, params, folder: Path):
    return cost_of(problem, candidate(problem, params), folder, lambda _: Quiet())


def test_the_estimate_is_the_one_that_a_full_run_would_give(problem_of, picked, tmp_path: Path):
    problem = problem_of()
    found = cost(problem, picked, tmp_path / "int8")
    file = ModelFolder(tmp_path / "int8" / "model").qdq("s8")
    rates = problem.plan.target.rates["gpu"]
    assert (found.backend, found.precision) == ("tensorrt", "int8")
    assert found.ms == estimate(artifact_layers(file, 1080, 1920, "fp16"), rates).ms
    assert found.p90(problem.plan.target) == pytest.approx(1.1 * found.ms)
    rows = {m.name: m for m in found.measurements}
    assert set(rows) == {"params", "macs", "size", "latency_p50", "latency_p90"}
    assert rows["latency_p50"].evidence is Evidence.ESTIMATED
    assert rows["latency_p50"].conditions["frame"] == "1920x1080" and rows["latency_p50"].conditions["target"] == "jetson-xavier"
    assert rows["size"].value == file.stat().st_size / 1e6 == found.size_mb


def test_precision_pruning_and_width_cost_what_they_should(problem_of, picked, tmp_path: Path):
    problem, picked = problem_of(), picked | {"width": 32}
    base = cost(problem, picked, tmp_path / "base")
    floats = cost(problem, picked | {"precision": "float"}, tmp_path / "float")
    whole = cost(problem, picked | {"prune": 0.0}, tmp_path / "whole")
    wide = cost(problem, picked | {"width": 48}, tmp_path / "wide")
    assert floats.precision == "fp16" and not ModelFolder(tmp_path / "float" / "model").has_int8
    assert min(floats.ms, whole.ms, wide.ms) > base.ms
    macs = [next(m.value for m in c.measurements if m.name == "macs") for c in (base, floats, whole, wide)]
    assert macs[0] == macs[1] < min(macs[2:])


def test_a_target_that_runs_none_of_it_is_named(problem_of, picked, tmp_path: Path):
    problem = problem_of()
    cost(problem, picked | {"precision": "float"}, tmp_path / "float")
    target = problem.plan.target.model_copy(
        update={"backends": (problem.plan.target.backends[0].model_copy(update={"precisions": ("int8",)}),)}
    )
    with pytest.raises(StageFailed) as e:
        folder_cost(ModelFolder(tmp_path / "float" / "model"), target, ())
    what = "target jetson-xavier: none of its backends runs fp32\nhint: add such a precision to backends in the target file"
    assert str(e.value) == what
