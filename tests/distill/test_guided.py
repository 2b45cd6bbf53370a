"""Distillation as a stage: kept answers, several teachers, critics, several processes, and the same bytes twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill import student
from distill.teachers import teacher_of
from models import checkpoint
from models.arch import build
from pipeline.contract import Artifact, Kind
from pipeline.errors import UsageError
from tests.distill.stages import TINY_STUDENT, TINY_TEACHER, TRAIN, context
from tests.models.helpers import lively
from tests.train.toys import Words

CONFIG = {**TINY_STUDENT, "train": TRAIN, "teacher_cache": "on"}
OWN = {"arch": "tests.train.toys:ToyNet", "config": {"width": 4}, "train": TRAIN, "teacher_cache": "on"}
RICH = {"gt": 1, "response": 1, "feature": 0.01, "fft": 0.01, "response_fft": 0.01, "attention": 0.1, "softened": 0.1}
CRITIC = {"steps": 1, "channels": 4, "layers": 1, "weight": 0.1}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder, found = tmp_path_factory.mktemp("teachers"), {}
    for i, name in enumerate(("teacher", "teacher2", "teacher3")):
        path = folder / f"{name}.safetensors"
        checkpoint.save(path, lively(build("nafnet", TINY_TEACHER), seed=i), "nafnet")
        found[name] = Artifact(Kind.CHECKPOINT, path, "0" * 64, path.stat().st_size)
    return found


def distilled(workdir, teachers, progress=None, names=("teacher",), **changes):
    inputs = {name: teachers[name] for name in names}
    result = student.run(context(student.STAGE, workdir, {**CONFIG, **changes}, inputs, progress=progress))
    return result, result.outputs["model"].path.read_bytes()


@pytest.mark.parametrize("changes", [{}, {"loss_weights": RICH, "feature_scales": [0.5, 1]}, {"adversarial": CRITIC}])
def test_the_same_config_twice_gives_the_same_bytes(teachers, tmp_path, changes):
    a, first = distilled(tmp_path / "a", teachers, **changes)
    _, second = distilled(tmp_path / "b", teachers, **changes)
    assert first == second
    assert "the teacher was asked once about each of 3 images" in a.notes[0]


def test_every_option_changes_the_student(teachers, tmp_path):
    options = [{}, {"teacher_cache": "off"}, {"adversarial": CRITIC}, {"loss_weights": RICH}, {"loss_weights": RICH, "temperature": 1.0}]
    options += [{"loss_weights": RICH, "feature_scales": [1, 0]}]
    weights = [checkpoint.load(distilled(tmp_path / str(i), teachers, **o)[0].outputs["model"].path).module for i, o in enumerate(options)]
    flat = [torch.cat([t.flatten() for t in w.state_dict().values()]) for w in weights]
    assert all(not torch.equal(a, b) for i, a in enumerate(flat) for b in flat[:i])


def test_the_answers_lie_in_the_stage_s_own_folder(teachers, tmp_path):
    distilled(tmp_path, teachers)
    assert len(list(tmp_path.glob("teacher-cache/*/*.safetensors"))) == 3


def test_a_distillation_with_other_settings_finds_the_answers_of_the_one_before(teachers, tmp_path):
    found = []
    for name, changes in {"first": {}, "second": {"loss": "l1", "loss_weights": {"feature": 0}}}.items():
        ctx = context(student.STAGE, tmp_path / name, {**CONFIG, **changes}, {"teacher": teachers["teacher"]})
        student.run(replace(ctx, shared=tmp_path / "shared"))
        assert not (ctx.workdir / "teacher-cache").exists()
        found.append({p: p.stat().st_mtime_ns for p in tmp_path.glob("shared/teacher-cache/*/*.safetensors")})
    assert found[0] == found[1] and len(found[0]) == 3


def test_a_short_training_asks_about_every_crop_and_says_so(teachers, tmp_path):
    words = Words()
    result, _ = distilled(tmp_path, teachers, progress=words, teacher_cache="auto")
    assert "the teacher was asked about every crop: the images have 0.0276 million pixels" in result.notes[0]
    assert any(line.startswith("distill: the teacher was asked about every crop") for line in words.lines)


def test_a_critic_may_come_after_the_distillation(teachers, tmp_path):
    words = Words()
    after = {**CRITIC, "train": {**TRAIN, "steps": 3}}
    result, both = distilled(tmp_path / "after", teachers, progress=words, adversarial=after)
    _, plain = distilled(tmp_path / "plain", teachers)
    history = checkpoint.load(result.outputs["model"].path).history
    assert [(e["stage"], e["steps"], "adversarial" in e) for e in history] == [("distill", 6, False), ("distill against a critic", 3, True)]
    assert both != plain and ", then against a critic " in result.notes[0]
    assert "critic_loss" not in words.updates[5][3] and "critic_loss" in words.updates[-1][3]


def test_several_teachers_are_one(teachers, tmp_path):
    _, one = distilled(tmp_path / "one", teachers)
    _, two = distilled(tmp_path / "two", teachers, names=("teacher", "teacher2"))
    _, unlike = distilled(tmp_path / "unlike", teachers, names=("teacher", "teacher3"), teacher_weights=[3, 1])
    assert len({one, two, unlike}) == 3


def test_the_ensemble_is_the_weighted_mean(teachers, tmp_path):
    ctx = context(student.STAGE, tmp_path, {**CONFIG, "teacher_weights": [2, 1, 1]}, teachers)
    lq = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        outputs = [checkpoint.load(a.path).module(lq) for a in teachers.values()]
        mean = teacher_of(ctx)(lq)
    assert torch.allclose(mean, (2 * outputs[0] + outputs[1] + outputs[2]) / 4, atol=1e-6)
    assert (mean - outputs[0]).abs().max() > 1e-3


def test_weights_must_be_one_for_each_teacher(teachers, tmp_path):
    message = r"^distill: teacher_weights: 2 for 1 teachers \(teacher\)\nhint: give one for each, or leave teacher_weights out"
    with pytest.raises(UsageError, match=message):
        distilled(tmp_path, teachers, teacher_weights=[1, 2])


def test_a_student_of_the_user_s_own_brings_its_code_into_the_key(teachers, tmp_path):
    ctx = context(student.STAGE, tmp_path, OWN, {"teacher": teachers["teacher"]})
    assert student.STAGE.code_of(ctx.config) == ("tests.train.toys",)
    loaded = checkpoint.load(student.run(ctx).outputs["model"].path)
    assert loaded.arch == "tests.train.toys:ToyNet"


@pytest.mark.slow
def test_torchrun_s_first_process_measures_and_the_others_only_train(teachers, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29531"]
    train = {**TRAIN, "clip": 0.0, "weight_decay": 0.0}
    config = {**OWN, "train": train}  # without batch statistics, which two processes take over half a batch each
    text = json.dumps(config)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    program = [*command, "-m", "tests.distill.two_processes", str(tmp_path / "two"), str(teachers["teacher"].path), text]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {rank: json.loads((tmp_path / "two" / f"rank{rank}.json").read_text()) for rank in (0, 1)}
    assert told[1]["outputs"] == [] and told[1]["measurements"] == []
    assert set(told[0]["outputs"]) == {"model", "samples"} and "psnr" in told[0]["measurements"]
    ctx = context(student.STAGE, tmp_path / "one", config, {"teacher": teachers["teacher"]})
    paths = tmp_path / "two" / "model.safetensors", student.run(ctx).outputs["model"].path
    two, one = (checkpoint.load(path).module.state_dict() for path in paths)
    assert all(torch.allclose(two[name], one[name], atol=1e-4) for name in one)
