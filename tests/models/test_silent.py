from __future__ import annotations

import torch
from torch import nn

from models.silent import silence


def layer(variances: list[float]) -> nn.BatchNorm2d:
    out = nn.BatchNorm2d(len(variances))
    assert out.running_var is not None
    out.running_var.copy_(torch.tensor(variances))
    return out.eval()


def test_a_channel_that_training_hardly_heard_gives_its_constant_part_only():
    network = layer([1.0, 2.0, 3e-6, 0.5])
    nn.init.constant_(network.bias, 0.25)
    loud = torch.full((1, 4, 2, 2), 5.0)
    before = network(loud)
    assert before[0, 2, 0, 0] > 1000
    assert silence(network) == 1
    after = network(loud)
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    assert torch.equal(after[:, 2], torch.full((1, 2, 2), 0.25))


def test_what_is_silent_already_is_not_counted_again():
    network = nn.Sequential(layer([1.0, 1.0, 1e-9]), layer([4.0, 5.0, 6.0]))
    assert [silence(network), silence(network)] == [1, 0]


def test_layers_without_statistics_or_factors_are_left_alone():
    network = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 3, 1))
    assert silence(network) == 0
