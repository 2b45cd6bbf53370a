from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import load_pipeline
from pipeline.errors import UsageError
from pipeline.plan import make_plan
from pipeline.target import load_target
from search.candidate import candidate, planned, portable
from tests.search.small import pipeline_text, pipeline_tree


def test_the_picks_replace_what_is_searched_and_nothing_else(problem_of, picked):
    tree = pipeline_tree()
    tree["stages"]["student"]["with"] |= {"widths": [64, 64, 64], "upsample": "nearest", "config": {"skip": "concat"}}
    problem = problem_of(pipeline_text(tree))
    found = candidate(problem, picked)
    student = found["stages"]["student"]["with"]
    assert (student["widths"], student["activation"], student["unshuffle"]) == ([16, 32], "relu", 2)
    assert (student["upsample"], student["skip"], student["train"]) == ("nearest", "concat", tree["stages"]["student"]["with"]["train"])
    assert found["stages"]["thin"]["with"]["ratio"] == 0.4 and found["stages"]["thin"]["with"]["max_drop"] == 50.0
    for untouched in ("guide", "small", "compile"):
        assert found["stages"][untouched] == tree["stages"][untouched]
    assert problem.tree() == tree, "the problem itself is not changed"


def test_without_pruning_the_stage_is_left_out_and_its_readers_turn_to_the_one_before(problem_of, picked):
    found = candidate(problem_of(), picked | {"prune": 0.0})["stages"]
    assert "thin" not in found and found["small"]["needs"] == {"model": "student.model"}
    assert [g.get("against") for g in found["small"]["gates"]] == ["student", None]


def test_in_float_the_quantize_stage_writes_the_network_as_it_is(problem_of, picked):
    found = candidate(problem_of(), picked | {"precision": "float"})["stages"]["small"]
    assert found == {
        "uses": "quantize.unquantized",
        "needs": {"model": "thin.model"},
        "gates": [{"metric": "psnr", "drop_at_most": 50.0, "against": "thin"}],
    }


def test_a_stage_that_reads_more_of_pruning_than_its_model_keeps_it(problem_of, picked):
    tree = pipeline_tree()
    tree["stages"]["words"] = {"uses": "tests.search.toy_reader", "needs": {"widths": "thin.widths"}}
    problem = problem_of(pipeline_text(tree))
    with pytest.raises(UsageError) as e:
        candidate(problem, picked | {"prune": 0.0})
    assert str(e.value) == (
        "small.yaml: stages.words.needs.widths: reads 'thin.widths', so stage 'thin' cannot be left out\n"
        "hint: remove 0 from 'prune' in the search space"
    )


def test_a_kept_key_that_does_not_fit_is_named(problem_of, picked):
    tree = pipeline_tree()
    tree["stages"]["student"]["with"]["expand"] = [1, 2, 2]
    with pytest.raises(UsageError) as e:
        candidate(problem_of(pipeline_text(tree)), picked)
    assert "small.yaml: stages.student.with: does not fit what is searched: 2 widths need 2 expand, not 3" in str(e.value)


@pytest.mark.parametrize("change", [{}, {"prune": 0.0}, {"precision": "float"}, {"block_0": "inverted_residual", "block_1": "fused"}])
def test_a_candidate_is_a_complete_pipeline_wherever_its_file_lies(problem_of, picked, tmp_path: Path, change: dict):
    tree = pipeline_tree()
    for role in tree["data"]:
        for half in ("blur", "sharp"):
            write_picture(tmp_path / "pairs" / role / half / "one.png", role)
        tree["data"][role] = {"source": "folder", "path": f"pairs/{role}"}
    problem = problem_of(pipeline_text(tree))
    path = tmp_path / "elsewhere" / "candidate.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(portable(problem, candidate(problem, picked | change)), default_flow_style=None))
    plan = make_plan(path, load_pipeline(path), load_target("jetson-xavier"))
    assert len(plan.stages) == 4 + bool((picked | change)["prune"])
    assert plan.data["train"].digest() == problem.plan.data["train"].digest()
    for stage in plan.stages:
        if stage.id not in ("student", "thin", "small"):
            assert stage.config == problem.stage(stage.id).config


def test_files_of_a_stage_stay_the_same_files(problem_of, picked, tmp_path: Path):
    (tmp_path / "teacher.safetensors").write_bytes(b"weights")
    tree = pipeline_tree()
    tree["stages"]["guide"]["with"] = {"weights": "teacher.safetensors"}
    problem = problem_of(pipeline_text(tree))
    moved = portable(problem, candidate(problem, picked))
    assert moved["stages"]["guide"]["with"]["weights"] == str(tmp_path / "teacher.safetensors")
    assert planned(problem, moved, "guide").config == problem.stage("guide").config


def write_picture(path: Path, seed: str) -> None:
    import cv2
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(len(seed)).integers(0, 256, (96, 96, 3), dtype=np.uint8))
