import copy

import pytest
import torch
from torch import nn

from models.fold import fold_batchnorm
from prune.groups import cut
from prune.importance import l1
from prune.recentre import FrozenNorm, frozen_norms, middles, recentre
from tests.quantize.toys import pairs, photos, student

WIDE = {"widths": [16, 32, 48], "depths": [1, 2, 2], "decoder_depths": [1, 1], "se_from": 1}
PLAN = {"stem.conv": 8, "encoder.1.0.project.conv": 16, "encoder.2.0.expand.conv": 32}


def shifted():
    """A network whose channels have means that matter."""
    network = student(**WIDE)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.normal_(0.5, 0.5)
    return network


@pytest.mark.parametrize("folded", [False, True], ids=["norms", "folded into biases"])
def test_the_output_has_the_mean_of_the_original_again(folded):
    network = fold_batchnorm(shifted()) if folded else shifted()
    images = torch.cat(photos())
    small, kept = cut(network, PLAN, l1(network))
    with torch.no_grad():
        wanted, dark = network(images), small(images)
        recentre(small, network, kept, images)
        found = small(images)
    assert (dark.mean((0, 2, 3)) - wanted.mean((0, 2, 3))).abs().max() > 0.02
    assert torch.allclose(found.mean((0, 2, 3)), wanted.mean((0, 2, 3)), atol=1e-4)
    assert (found - wanted).square().mean() < (dark - wanted).square().mean()


def test_every_kept_channel_has_its_old_mean_and_its_old_variance_statistics():
    network, images = shifted(), torch.cat(photos())
    small, kept = cut(network, PLAN, l1(network))
    recentre(small, network, kept, images)
    means = [{}, {}]
    for seen, net in zip(means, (network, small), strict=True):
        for name, layer in net.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(lambda _m, _a, out, seen=seen, name=name: seen.__setitem__(name, out.mean((0, 2, 3))))
        with torch.no_grad():
            net(images)
    for name, mean in means[1].items():
        assert torch.allclose(mean, means[0][name][kept[name]], atol=1e-4), name
    assert torch.equal(small.stem.bn.running_var, network.stem.bn.running_var[kept["stem.bn"]])


def test_an_uncut_network_stays_what_it_was():
    network, images = shifted(), torch.cat(photos())
    same, kept = cut(network, {}, l1(network))
    recentre(same, network, kept, images)
    with torch.no_grad():
        assert torch.allclose(same(images), network(images), atol=1e-5)


def test_frozen_norms_keep_their_statistics_while_the_rest_trains():
    network = student(**WIDE)
    before = copy.deepcopy(network.state_dict())
    with frozen_norms(network):
        network.train()
        assert all(not m.training for m in network.modules() if isinstance(m, FrozenNorm))
        network(torch.rand(2, 3, 32, 32)).mean().backward()
    assert network.stem.bn.weight.grad is not None
    assert all(type(m) is not FrozenNorm for m in network.modules())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    network.train()(torch.rand(2, 3, 32, 32))
    assert not torch.equal(network.stem.bn.running_mean, before["stem.bn.running_mean"])


def test_live_norms_are_left_alone():
    network = student(**WIDE)
    with frozen_norms(network, frozen=False):
        assert all(type(m) is not FrozenNorm for m in network.modules())


def test_middles_are_equal_squares_that_the_network_takes():
    lq, gt = middles(pairs("calibrate", 3, 90), 2, student(**WIDE))
    assert lq.shape == gt.shape == (2, 3, 88, 88)
    pair = pairs("calibrate", 3, 90)[2]
    assert torch.equal((lq[1] * 255).round().to(torch.uint8), torch.from_numpy(pair.lq[1:89, 1:89].copy()).permute(2, 0, 1))
