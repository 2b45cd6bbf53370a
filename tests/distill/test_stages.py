from __future__ import annotations

import numpy as np
import pytest
import torch

from data.images import read_image
from distill import student, teach
from eval.quality import psnr
from models import checkpoint
from pipeline.contract import Kind
from pipeline.errors import StageFailed, UsageError
from tests.distill.stages import TINY_STUDENT, TINY_TEACHER, TRAIN, artifact, context, pairs
from tests.train.toys import Words

NAMES = {"psnr", "ssim", "psnr_worst5", "psnr_gain", "params", "macs", "size"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    return teach.run(context(teach.STAGE, tmp_path_factory.mktemp("teach"), {**TINY_TEACHER, "train": TRAIN}))


def value(result, name):
    return next(m for m in result.measurements if m.name == name)


def test_the_teacher_is_a_checkpoint_that_rebuilds_itself(taught):
    output = taught.outputs["model"]
    assert output.kind is Kind.CHECKPOINT
    loaded = checkpoint.load(output.path)
    assert loaded.arch == output.facts["arch"] == "nafnet"
    assert loaded.config == output.facts["config"] == {**TINY_TEACHER, "tlc": None}
    assert output.facts["size_multiple"] == 4
    assert loaded.history == [{"stage": "teach", "steps": 6, "seed": 1, "loss": "mse"}]


def test_measurements_belong_to_the_restored_images(taught):
    source = pairs("test", 2)
    assert {m.name for m in taught.measurements} == NAMES
    images = {p.stem: read_image(p) for p in taught.outputs["samples"].path.glob("*.png")}
    assert set(images) == {source[i].name for i in range(2)}
    wanted = [psnr(images[source[i].name], source[i].gt) for i in range(2)]
    assert value(taught, "psnr").values == pytest.approx(wanted)
    blurred = [psnr(source[i].lq, source[i].gt) for i in range(2)]
    assert value(taught, "psnr_gain").value == pytest.approx(np.mean(wanted) - np.mean(blurred))
    assert value(taught, "size").value == pytest.approx(taught.outputs["model"].path.stat().st_size / 1e6)
    assert value(taught, "params").value == sum(t.numel() for t in checkpoint.load(taught.outputs["model"].path).module.parameters()) / 1e6


def test_the_same_teacher_comes_out_twice_and_training_changed_it(taught, tmp_path):
    again = teach.run(context(teach.STAGE, tmp_path / "again", {**TINY_TEACHER, "train": TRAIN}))
    assert again.outputs["model"].path.read_bytes() == taught.outputs["model"].path.read_bytes()
    other = teach.run(context(teach.STAGE, tmp_path / "other", {**TINY_TEACHER, "train": TRAIN}, seed=2))
    assert other.outputs["model"].path.read_bytes() != taught.outputs["model"].path.read_bytes()
    fixed = teach.run(context(teach.STAGE, tmp_path / "fixed", {**TINY_TEACHER, "train": {**TRAIN, "seed": 1}}, seed=2))
    assert checkpoint.load(fixed.outputs["model"].path).history[0]["seed"] == 1


def test_a_stage_that_runs_again_does_not_train_again(taught):
    words = Words()
    workdir = taught.outputs["model"].path.parent
    before = taught.outputs["model"].path.read_bytes()
    again = teach.run(context(teach.STAGE, workdir, {**TINY_TEACHER, "train": TRAIN}, progress=words))
    assert words.lines == ["teach: already trained (6 steps)"]
    assert again.outputs["model"].path.read_bytes() == before


def test_a_given_teacher_is_only_measured(taught, tmp_path):
    words = Words()
    given = teach.run(context(teach.STAGE, tmp_path, {"weights": taught.outputs["model"].path}, progress=words))
    assert given.outputs["model"].path.read_bytes() == taught.outputs["model"].path.read_bytes()
    assert value(given, "psnr").values == value(taught, "psnr").values
    assert given.notes == ("weights of model.safetensors, not trained here",)
    assert not words.updates


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"arch": "student"}, "holds a 'nafnet', but the stage's arch is 'student'"),
        ({"width": 8}, "has width = 4, but the stage says 8"),
        ({"widths": [8]}, "holds a 'nafnet' without 'widths'"),
    ],
)
def test_a_given_teacher_must_be_the_one_described(taught, tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        teach.run(context(teach.STAGE, tmp_path, {"weights": taught.outputs["model"].path, **more}))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"lost.safetensors: no such file"):
        teach.run(context(teach.STAGE, tmp_path, {"weights": tmp_path / "lost.safetensors"}))


@pytest.fixture(scope="module")
def distilled(taught, tmp_path_factory):
    config = {**TINY_STUDENT, "train": TRAIN}
    words = Words()
    inputs = {"teacher": artifact(taught.outputs["model"])}
    return student.run(context(student.STAGE, tmp_path_factory.mktemp("distill"), config, inputs, progress=words)), words


def test_the_student_learns_from_all_three(distilled):
    result, words = distilled
    assert {m.name for m in result.measurements} == NAMES
    assert set(words.updates[-1][3]) == {"loss", "gt", "response", "feature", "lr"}
    loaded = checkpoint.load(result.outputs["model"].path)
    assert loaded.arch == "student"
    entry = loaded.history[0]
    assert (entry["stage"], entry["steps"], entry["loss_weights"]["response"], entry["loss_weights"]["attention"]) == ("distill", 6, 1, 0)
    assert loaded.config["network"]["stem"]["width"] == 8
    lq = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert (loaded.module(lq) - lq).abs().max() > 0


def test_the_teacher_matters(taught, distilled, tmp_path):
    config = {**TINY_STUDENT, "train": TRAIN, "loss_weights": {"response": 0.0, "feature": 0.0}}
    alone = student.run(context(student.STAGE, tmp_path, config, {"teacher": artifact(taught.outputs["model"])}))
    assert alone.outputs["model"].path.read_bytes() != distilled[0].outputs["model"].path.read_bytes()


def test_a_given_student_is_only_measured(distilled, tmp_path):
    path = distilled[0].outputs["model"].path
    given = student.run(context(student.STAGE, tmp_path, {"weights": path}))
    assert given.outputs["model"].path.read_bytes() == path.read_bytes()


def test_a_learning_rate_that_diverges_is_said(tmp_path):
    train = {**TRAIN, "steps": 200, "lr": 1e9, "clip": 0.0}
    with pytest.raises(StageFailed, match=r"teach: loss is .* in step \d+ of 200\nhint: lower its learning rate"):
        teach.run(context(teach.STAGE, tmp_path, {**TINY_TEACHER, "loss": "mse", "train": train}))
