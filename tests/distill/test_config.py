from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distill import student, teach
from pipeline.errors import UsageError
from pipeline.key import _hashable
from pipeline.plan import resolve_files
from pipeline.yamlfile import validate
from tests.distill.stages import TINY_TEACHER

ROOT = Path(__file__).resolve().parents[2]
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
        ({"loss": []}, "pipeline.yaml: stages.x.with.loss: tuple should have at least 1 item"),
        ({"loss": [{"name": "l2"}]}, "pipeline.yaml: stages.x.with.loss.0.name: input should be 'l1'"),
        ({"loss": [{"name": "l1"}, {"nmae": "l1"}]}, "pipeline.yaml: stages.x.with.loss.1.name: is missing\nhint: add 'name:' there"),
        ({"loss": [{"name": "l1", "wieght": 1}]}, "pipeline.yaml: stages.x.with.loss.0.wieght: unknown key\nhint: did you mean 'weight'?"),
        ({"loss": [{"name": "perceptual"}]}, "pipeline.yaml: stages.x.with.loss.0: a perceptual term needs 'weights'"),
        ({"loss": ["l1"]}, "pipeline.yaml: stages.x.with.loss.0: input should be a valid dictionary"),
        ({"adversarial": {"kind": "wgan"}}, "pipeline.yaml: stages.x.with.adversarial.kind: input should be 'wgan-gp'"),
        ({"adversarial": {"critic_steps": 5}}, "pipeline.yaml: stages.x.with.adversarial.critic_steps: unknown key\nhint: did you mean"),
    ],
)
def test_what_is_wrong_is_named_by_its_place(value, message):
    with pytest.raises(UsageError) as e:
        parse(teach, value)
    assert str(e.value).startswith(message)


def test_a_loss_is_a_name_or_a_list_of_terms():
    assert parse(teach, {}).loss == "mse"
    assert parse(teach, {"loss": "psnr"}).settings().loss == "psnr"
    config = parse(teach, {"loss": [{"name": "l1"}, {"name": "fft", "weight": 0.1, "scales": "all"}]})
    assert config.settings() is None
    assert [(t.name, t.weight, t.scales) for t in config.terms()] == [("l1", 1, "full"), ("fft", 0.1, "all")]
    assert teach.STAGE.config.model_validate(config.model_dump()) == config
    with_critic = parse(teach, {"loss": "l1", "adversarial": {}})
    assert with_critic.settings() is None and [t.name for t in with_critic.terms()] == ["l1"]


def test_the_file_of_a_term_belongs_to_the_yaml_and_its_content_to_the_key(tmp_path):
    config = parse(teach, {"loss": [{"name": "perceptual", "weights": "vgg.pth"}]})
    with pytest.raises(UsageError, match=r"^p\.yaml: x\.loss\.0\.weights: no such file 'vgg\.pth'\nhint: "):
        resolve_files(config, tmp_path, "p.yaml: x")
    keys = []
    for content in (b"one", b"one", b"two"):
        (tmp_path / "vgg.pth").write_bytes(content)
        resolved = resolve_files(config, tmp_path, "p.yaml: x")
        assert resolved.loss[0].weights == tmp_path / "vgg.pth"
        keys.append(_hashable(resolved)["loss"])
    assert keys[0] == keys[1] != keys[2]


def test_a_network_of_the_user_s_own_brings_its_code_into_the_key():
    own = parse(teach, {"arch": "tests.train.toys:ToyNet", "config": {"width": 4}})
    assert own.config == {"width": 4}
    assert teach.STAGE.code_of(own) == ("tests.train.toys",)
    assert teach.STAGE.code_of(parse(teach, {})) == ()


def test_declaring_the_stage_loads_no_torch():
    code = "import sys, distill.teach as t\nt.STAGE.code_of(t.TeachConfig())\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


def test_loss_weights_are_the_students_alone():
    assert parse(student, {"loss_weights": {"feature": 0.0}}).loss_weights.feature == 0
    with pytest.raises(UsageError, match="loss_weights: unknown key"):
        parse(teach, {"loss_weights": {"feature": 0.0}})


def test_weights_need_no_architecture():
    config = parse(teach, {"weights": "teacher.safetensors"})
    assert config.weights == Path("teacher.safetensors")
    assert parse(teach, {"weights": "a.safetensors", **TINY_TEACHER}).config == TINY_TEACHER
