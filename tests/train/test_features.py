from __future__ import annotations

import pytest
import torch
from torch import nn

from models.arch import build
from pipeline.errors import UsageError
from tests.train.toys import ToyNet
from train.determinism import seeded
from train.features import FeatureLoss, attention_distance, feature_loss, normalised_mse, probe, softened_divergence

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


def test_attention_is_zero_for_equal_places_and_two_for_none_in_common():
    wanted = maps(4, 8)
    assert attention_distance(3 * wanted[:, [2, 0, 1, 3]], wanted).item() == pytest.approx(0, abs=1e-6)
    left, right = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    left[..., :2], right[..., 2:] = 1, -7
    assert attention_distance(left, right).item() == pytest.approx(2)


def test_attention_is_the_published_distance():
    ours, theirs = maps(3, 6, 1), maps(5, 6, 2)
    unit = [nn.functional.normalize(x.pow(2).mean(1).view(2, -1)) for x in (ours, theirs)]
    assert attention_distance(ours, theirs).item() == pytest.approx((unit[0] - unit[1]).pow(2).sum(1).mean().item(), rel=1e-5)


def test_attention_compares_maps_of_different_sizes():
    coarse = maps(4, 4).abs()
    assert attention_distance(nn.functional.interpolate(coarse, scale_factor=2), coarse).item() == pytest.approx(0, abs=1e-6)


def test_softened_divergence_is_that_of_its_definition():
    ours, theirs, t = maps(3, 4, 1).double(), maps(3, 4, 2).double(), 2.0
    p, q = (torch.softmax(x.reshape(2, 3, -1) / t, -1) for x in (theirs, ours))
    wanted = t * t * (p * (p / q).log()).sum(-1).mean()
    assert softened_divergence(ours, theirs, t).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert softened_divergence(theirs + 5, theirs, t).item() == pytest.approx(0, abs=1e-5)
    assert softened_divergence(ours, theirs, t) > 0


def test_scales_count_as_they_are_told():
    student, teacher = ToyNet(width=4), ToyNet(width=8)
    with seeded(1):
        both = feature_loss(student, teacher, (1.0, 3.0), kinds=("feature", "attention"))
    with seeded(1):
        alike = feature_loss(student, teacher)
    _, ours = student.features(maps(3, 16, 1))
    _, theirs = teacher.features(maps(3, 16, 2))
    fine, coarse = (normalised_mse(a(ours[s]), theirs[t]) for a, (s, t) in zip(alike.adapters, alike.pairs, strict=True))
    assert alike(ours, theirs).item() == pytest.approx(((fine + coarse) / 2).item())
    assert both(ours, theirs).item() == pytest.approx(((fine + 3 * coarse) / 4).item())
    assert set(both.parts(ours, theirs, ("feature", "attention"))) == {"feature", "attention"}


def test_a_scale_that_counts_nothing_is_not_compared():
    loss = feature_loss(ToyNet(), ToyNet(), (0.0, 1.0))
    assert (loss.pairs, loss.wanted, len(loss.adapters)) == (((1, 1),), (1,), 1)
    with pytest.raises(
        UsageError, match=r"^distill: feature_scales: 1 factors for 2 scales of features \(1/1, 1/2\)\nhint: give 2, fine first"
    ):
        feature_loss(ToyNet(), ToyNet(), (1.0,), where="distill: feature_scales")


def test_attention_alone_trains_no_adapters():
    loss = feature_loss(ToyNet(), ToyNet(), kinds=("attention",))
    _, features = ToyNet().features(maps(3, 16))
    assert not list(loss.parameters())
    assert set(loss.parts(features, features, ("attention",))) == {"attention"}
