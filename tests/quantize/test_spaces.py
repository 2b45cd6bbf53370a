"""Where a factor per channel can be undone, and where it cannot."""

import pytest
import torch
from torch import nn

from models.fold import fold_batchnorm
from models.student.blocks import Add
from quantize.spaces import spaces
from tests.quantize.toys import SMALL, student

DEPTHWISE = {**SMALL, "high_scales": 0, "depths": [1, 2, 2]}


def found(**config):
    return {space.tensors[0]: space for space in spaces(fold_batchnorm(student(**config)))}


def test_a_hidden_tensor_lies_between_two_convolutions():
    space = found(**DEPTHWISE)["encoder.0.0.expand.act"]
    assert (space.writers, space.readers) == (("encoder.0.0.expand.conv",), ("encoder.0.0.depthwise.conv",))
    assert space.tensors == ("encoder.0.0.expand.act",)


def test_a_residual_stream_runs_over_its_sums_and_its_skip():
    space = found(**SMALL)["stem.act"]
    last = "decoder.1"
    assert set(space.writers) == {"stem.conv", "encoder.0.0.project.conv", f"{last}.up.conv.conv", f"{last}.blocks.0.project.conv"}
    assert set(space.readers) == {"encoder.0.0.expand.conv", "encoder.1.0.expand.conv", f"{last}.blocks.0.expand.conv", "head"}
    assert {"encoder.0.0.add", f"{last}.up.resize", f"{last}.join", f"{last}.blocks.0.add"} <= set(space.tensors)


def test_squeeze_and_excite_reads_the_channels_that_it_weighs_and_keeps_its_own():
    space = found(**{**DEPTHWISE, "se_from": 0})["encoder.1.0.depthwise.act"]
    assert space.tensors == ("encoder.1.0.depthwise.act", "encoder.1.0.se.mul")
    assert space.readers == ("encoder.1.0.se.reduce", "encoder.1.0.project.conv")
    assert not any(".se." in name for s in found(**{**DEPTHWISE, "se_from": 0}).values() for name in s.writers)


@pytest.mark.parametrize("activation", ["relu6", "hardswish"])
def test_none_runs_over_an_activation_with_a_bend_above_zero(activation):
    spots = found(**{**SMALL, "activation": activation})
    assert spots
    assert not any(name.endswith(".act") for space in spots.values() for name in space.tensors)


def test_a_concatenation_and_the_picture_itself_are_left_alone():
    spots = found(**{**SMALL, "skip": "concat"})
    assert not any(name.endswith(".join") for space in spots.values() for name in space.tensors)
    assert not any("head" in space.writers for space in spots.values())
    assert not any("stem.conv" in space.readers for space in spots.values())


class Broadcast(nn.Module):
    """One channel is added to six."""

    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.many, self.one, self.add, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 1, 1), Add(), nn.Conv2d(6, 3, 1)

    def forward(self, lq):
        return self.last(self.add(self.many(lq), self.one(lq)))


def test_a_sum_that_broadcasts_a_channel_has_no_space():
    assert spaces(Broadcast()) == []


def test_a_grouped_convolution_mixes_channels_in_a_way_that_is_not_followed():
    chain = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1))
    chain.size_multiple = 1
    assert spaces(chain) == []
    chain[2] = nn.Conv2d(8, 8, 1)
    assert [s.tensors for s in spaces(chain)] == [("1",), ("3",)]
    assert torch.isfinite(chain(torch.rand(1, 3, 8, 8))).all()
