"""A recovered network amplifies no channel that training hardly heard."""

import copy

import torch

from models import checkpoint
from models.silent import SHARE, silence
from tests.prune.test_stage import WIDE, stage
from tests.quantize.toys import student
from tests.train.toys import Words

QUIET = [0, 5]
RECOVERY = {"steps": 3, "batch": 2, "crop": 32}


def half_dead():
    """A student with two channels of next to no variance, which matter so much that pruning leaves them."""
    network = student(**WIDE)
    with torch.no_grad():
        network.stem.conv.weight[QUIET] *= 10
        network.stem.bn.running_var[QUIET] = 1e-6
        network.stem.bn.bias[QUIET] = 1.0  # else the activation behind would let no gradient through
    return network


def quiet(network):
    norm = network.stem.bn
    return norm.running_var < SHARE * norm.running_var.median()


def test_what_training_gave_back_its_factor_is_held_silent_again(tmp_path):
    words = Words()
    ctx, result = stage(tmp_path, {"recover": {"train": RECOVERY}}, half_dead(), progress=words)
    handed_on = checkpoint.load(result.outputs["model"].path).module
    assert silence(copy.deepcopy(handed_on)) == 0
    state = torch.load(ctx.workdir / "ratio-0.50" / "round-1" / "checkpoint.pt", weights_only=True)["weights"]
    assert quiet(handed_on).sum() == len(QUIET)
    assert (state["network.stem.bn.weight"][quiet(handed_on)] != 0).all()
    assert (handed_on.stem.bn.weight[quiet(handed_on)] == 0).all()
    said = "prune: 2 channels that training hardly heard are held silent {} the recovery"
    assert [line for line in words.lines if "silent" in line] == [said.format("before"), said.format("after")]


def test_every_round_begins_and_ends_so(tmp_path):
    words = Words()
    stage(tmp_path, {"rounds": 2, "recover": {"train": {**RECOVERY, "steps": 6}}}, half_dead(), progress=words)
    assert [line.split()[-3] for line in words.lines if "silent" in line] == ["before", "after", "after"]
