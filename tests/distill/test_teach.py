"""The teacher's losses, and teachers that come from elsewhere."""

from __future__ import annotations

import hashlib

import pytest
import torch

from distill import teach
from models import checkpoint
from models.arch import build, load_arch
from pipeline.errors import UsageError
from tests.distill.stages import TINY_TEACHER, TRAIN, context
from tests.models.helpers import image, small
from tests.train.toys import ToyNet, Words
from tests.train.vgg import write_vgg
from train.determinism import seeded

MULTISCALE = {"arch": "mimounet", "num_res": 1, "base_channel": 4, "dropout": 0.0}
OWN = "tests.train.toys:ToyNet"


def taught(workdir, config, **options):
    result = teach.run(context(teach.STAGE, workdir, config, **options))
    return result, checkpoint.load(result.outputs["model"].path)


def same_weights(a, b):
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", ["mse", "psnr"])
def test_one_term_trains_exactly_as_its_plain_name_does(tmp_path, name):
    _, plain = taught(tmp_path / "plain", {**TINY_TEACHER, "loss": name, "train": TRAIN})
    _, term = taught(tmp_path / "term", {**TINY_TEACHER, "loss": [{"name": name}], "train": TRAIN})
    _, half = taught(tmp_path / "half", {**TINY_TEACHER, "loss": [{"name": name, "weight": 0.5}], "train": {**TRAIN, "clip": 0}})
    assert same_weights(plain.module, term.module)
    assert not same_weights(plain.module, half.module)


def test_all_scales_and_a_perceptual_term_train_a_multiscale_network(tmp_path):
    vgg = write_vgg(tmp_path / "vgg.pth")
    loss = [
        {"name": "l1", "scales": "all"},
        {"name": "fft", "scales": "all", "weight": 0.1},
        {"name": "perceptual", "weights": vgg, "layer": "relu1_2", "weight": 0.01},
    ]
    words = Words()
    _, loaded = taught(tmp_path / "work", {**MULTISCALE, "loss": loss, "train": TRAIN}, progress=words)
    assert set(words.updates[-1][3]) == {"loss", "l1", "fft", "perceptual", "lr"}
    assert loaded.arch == "mimounet"
    stored = loaded.history[0]["loss"]
    assert [term["name"] for term in stored] == ["l1", "fft", "perceptual"]
    assert stored[2] == {"name": "perceptual", "weights": "vgg.pth", "layer": "relu1_2", "weight": 0.01}


def test_a_critic_changes_what_the_teacher_becomes_and_a_second_run_is_equal(tmp_path):
    config = {**TINY_TEACHER, "loss": [{"name": "mse"}], "train": TRAIN}
    adversarial = {"steps": 2, "channels": 4, "layers": 1, "weight": 0.1}
    words = Words()
    result, loaded = taught(tmp_path / "gan", {**config, "adversarial": adversarial}, progress=words)
    again, _ = taught(tmp_path / "again", {**config, "adversarial": adversarial})
    _, alone = taught(tmp_path / "alone", config)
    assert {"mse", "adversarial", "critic_loss", "critic_penalty"} <= set(words.updates[-1][3])
    assert loaded.history[0]["adversarial"] == adversarial
    assert not same_weights(loaded.module, alone.module)
    assert again.outputs["model"].path.read_bytes() == result.outputs["model"].path.read_bytes()
    assert not any("critic" in name for name in loaded.module.state_dict())


def test_scales_that_the_network_lacks_are_refused_before_training(tmp_path):
    words = Words()
    with pytest.raises(UsageError, match=r"^teach: loss\.0\.scales: the network restores the full size alone"):
        taught(tmp_path, {**TINY_TEACHER, "loss": [{"name": "l1", "scales": "all"}], "train": TRAIN}, progress=words)
    assert not words.updates


@pytest.mark.parametrize("arch", ["nafnet", "mimounet", "srn", "deblurgan"])
def test_official_weights_serve_as_the_teacher(tmp_path, arch):
    network = small(arch)
    path = tmp_path / "official.pth"
    torch.save({"params": {f"module.{n}": t for n, t in load_arch(arch).official(network).state_dict().items()}}, path)
    words = Words()
    result, loaded = taught(tmp_path / "work", {"weights": path}, progress=words)
    assert result.notes == (f"official weights, not trained here: official.pth, read as {arch}",)
    assert not words.updates
    assert loaded.arch == arch
    assert loaded.history == [{"stage": "weights", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
    lq = image(64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.module(lq), network(lq))


def test_what_the_weights_do_not_say_comes_from_the_yaml(tmp_path):
    path = tmp_path / "official.pth"
    torch.save(small("nafnet").state_dict(), path)
    _, loaded = taught(tmp_path / "work", {"arch": "nafnet", "weights": path, "tlc": 64})
    assert loaded.config["tlc"] == 64


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"arch": "srn"}, r"official\.pth: does not fit srn"),
        ({"width": 8}, r"official\.pth: its weights say width = 4, not 8"),
        ({"widht": 8}, r"unknown key"),
    ],
)
def test_official_weights_must_be_those_described(tmp_path, more, message):
    path = tmp_path / "official.pth"
    torch.save(small("nafnet").state_dict(), path)
    with pytest.raises(UsageError, match=message):
        taught(tmp_path / "work", {"weights": path, **more})


def test_a_network_of_the_user_s_own_is_taught_and_rebuilt(tmp_path):
    config = {"arch": OWN, "config": {"width": 6}, "loss": [{"name": "charbonnier"}], "train": TRAIN}
    result, loaded = taught(tmp_path, config)
    assert loaded.arch == result.outputs["model"].facts["arch"] == OWN
    assert loaded.module.network.first.out_channels == 6
    with seeded(1, "teach"):
        fresh = build(OWN, {"width": 6})
    assert not same_weights(loaded.module, fresh)


def test_a_network_of_the_user_s_own_with_weights_of_its_own(tmp_path):
    network = ToyNet(width=6)
    path = tmp_path / "own.pt"
    torch.save(network.state_dict(), path)
    result, loaded = taught(tmp_path / "work", {"arch": OWN, "config": {"width": 6}, "weights": path})
    assert result.notes == (f"weights, not trained here: own.pt, read as {OWN}",)
    assert same_weights(loaded.module.network, network)
