from __future__ import annotations

from pathlib import Path

import pytest

from distill import student, teach
from pipeline.errors import UsageError
from pipeline.yamlfile import validate
from tests.distill.stages import TINY_TEACHER

STAGES = pytest.mark.parametrize("stage", [teach, student], ids=["teach", "student"])


def parse(stage, value):
    return validate(stage.STAGE.config, value, "pipeline.yaml", "stages.x.with")


@STAGES
def test_everything_has_a_default_and_a_description(stage):
    config = parse(stage, {})
    assert config.weights is None
    assert all(field.description for field in stage.STAGE.config.model_fields.values())


def test_keys_of_the_architecture_stand_beside_those_of_the_stage():
    beside = parse(teach, {"arch": "nafnet", "width": 16, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "train": {"steps": 5}})
    inside = parse(teach, {"config": {"width": 16, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}, "train": {"steps": 5}})
    assert beside.config == inside.config == {"width": 16, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
    assert beside.train.steps == 5
    assert teach.STAGE.config.model_validate(beside.model_dump()) == beside


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"widht": 16}, "pipeline.yaml: stages.x.with.widht: unknown key\nhint: did you mean 'width'?"),
        ({"config": {"widht": 16}}, "pipeline.yaml: stages.x.with.config.widht: unknown key\nhint: did you mean 'width'?"),
        ({"wieghts": "a"}, "pipeline.yaml: stages.x.with.wieghts: unknown key\nhint: did you mean 'weights'?"),
        ({"arch": "nafnett"}, "pipeline.yaml: stages.x.with.arch: unknown architecture 'nafnett'\nhint: did you mean 'nafnet'?"),
        ({"width": -1}, "pipeline.yaml: stages.x.with.width: input should be greater than 0 (got -1)"),
        ({"train": {"setps": 1}}, "pipeline.yaml: stages.x.with.train.setps: unknown key"),
        ({"train": {"lr": "fast"}}, "pipeline.yaml: stages.x.with.train.lr: input should be a valid number"),
        ({"loss": "l2"}, "pipeline.yaml: stages.x.with.loss: input should be 'l1'"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(value, message):
    with pytest.raises(UsageError) as e:
        parse(teach, value)
    assert str(e.value).startswith(message)


def test_loss_weights_are_the_students_alone():
    assert parse(student, {"loss_weights": {"feature": 0.0}}).loss_weights.feature == 0
    with pytest.raises(UsageError, match="loss_weights: unknown key"):
        parse(teach, {"loss_weights": {"feature": 0.0}})


def test_weights_need_no_architecture():
    config = parse(teach, {"weights": "teacher.safetensors"})
    assert config.weights == Path("teacher.safetensors")
    assert parse(teach, {"weights": "a.safetensors", **TINY_TEACHER}).config == TINY_TEACHER
