from __future__ import annotations

import pytest
import torch
from torch import nn

from models.arch import build
from tests.train.toys import ToyNet
from train.determinism import seeded
from train.features import FeatureLoss, feature_loss, normalised_mse, probe

NAFNET = {"width": 8, "enc_blk_nums": [1, 1, 1], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1]}


def maps(channels, side, seed=0):
    with seeded(seed):
        return torch.randn(2, channels, side, side)


def test_equal_features_have_no_distance_and_silence_has_one():
    wanted = maps(4, 8)
    assert normalised_mse(wanted, wanted) == 0
    assert normalised_mse(torch.zeros_like(wanted), wanted).item() == pytest.approx(1.0, rel=1e-4)


def test_the_distance_does_not_depend_on_the_magnitude():
    a, b = maps(4, 8, 1), maps(4, 8, 2)
    assert normalised_mse(100 * a, 100 * b).item() == pytest.approx(normalised_mse(a, b).item(), rel=1e-4)


def test_a_loud_image_does_not_drown_a_quiet_one():
    a, b = maps(4, 8, 1), maps(4, 8, 2)
    loud = torch.tensor([1.0, 100.0]).view(2, 1, 1, 1)
    assert normalised_mse(a * loud, b * loud).item() == pytest.approx(normalised_mse(a, b).item(), rel=1e-4)


@pytest.mark.parametrize(("ours", "theirs"), [(8, 4), (4, 8), (6, 8)])
def test_sizes_are_matched(ours, theirs):
    flat = torch.ones(2, 4, ours, ours)
    assert normalised_mse(flat, torch.ones(2, 4, theirs, theirs)).item() == pytest.approx(0.0, abs=1e-9)


def test_the_adapter_learns_the_teachers_channels():
    with seeded(0):
        loss = FeatureLoss([(0, 4, 0, 6)])
        truth = nn.Conv2d(4, 6, 1)
    student = maps(4, 8)
    teacher = truth(student).detach()
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    first = loss([student], [teacher]).item()
    for _ in range(100):
        optimizer.zero_grad()
        value = loss([student], [teacher])
        value.backward()
        optimizer.step()
    assert value.item() < 0.05 * first


def test_scales_are_paired_by_resolution():
    with seeded(0):
        student, teacher = build("student", {}), build("nafnet", NAFNET)
    ours, theirs = probe(student, 64), probe(teacher, 64)
    assert [side for _, side in theirs] == [64, 32, 16, 8]
    loss = feature_loss(student, teacher)
    assert loss is not None
    for (channels, side), (s, t), adapter in zip(ours, loss.pairs, loss.adapters, strict=True):
        assert theirs[t][1] == min((height for _, height in theirs), key=lambda h: abs(h - side))
        assert (adapter.in_channels, adapter.out_channels) == (channels, theirs[t][0])
        assert ours[s] == (channels, side)


def test_probing_leaves_the_network_as_it_was():
    network = ToyNet(norm=True)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert probe(network, 8) == [(8, 8), (16, 4)]
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_network_without_features_has_no_feature_loss():
    class Plain(nn.Conv2d):
        def features(self, lq):
            return self(lq), []

    assert feature_loss(Plain(3, 3, 1), ToyNet()) is None
    assert feature_loss(ToyNet(), Plain(3, 3, 1)) is None
    assert feature_loss(ToyNet(), nn.Conv2d(3, 3, 1)) is None
