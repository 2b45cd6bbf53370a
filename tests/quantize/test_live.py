import pytest
import torch
from torch import nn

from models.fold import fold_batchnorm
from quantize.batchnorm import LiveBatchNorm
from quantize.insert import convolutions, set_all_float
from quantize.live import enliven, settle
from tests.quantize.toys import SMALL, db, photos, quantized, student


def alive(momentum=0.1, **config):
    source = student(**(config or SMALL))
    folded, ready = quantized(source)
    return source, folded, ready, enliven(ready, source, momentum)


@pytest.mark.parametrize("config", [SMALL, {**SMALL, "high_scales": 0, "depths": [1, 2, 2]}], ids=["dense", "depthwise"])
def test_it_computes_what_the_folded_network_computes(config):
    source, folded, ready, count = alive(**config)
    assert count == sum(isinstance(m, nn.BatchNorm2d) for m in source.modules())
    x = photos(1)[0]
    with torch.no_grad():
        int8 = quantized(source)[1](x)
        assert db(ready.eval()(x), int8) >= 55  # a last bit may round the other way
        set_all_float(ready)
        assert torch.allclose(ready(x), folded(x), atol=1e-4)


def test_statistics_move_in_training_alone_and_towards_the_batch():
    _, _, ready, _ = alive(momentum=1.0)
    live = ready.stem.conv.live
    before = live.running_mean.clone()
    with torch.no_grad():
        ready.eval()(photos(1)[0])
        assert torch.equal(live.running_mean, before)
        ready.train()(photos(1)[0])
    assert not torch.equal(live.running_mean, before)


def test_seen_statistics_are_those_of_batch_normalisation():
    bn, y = nn.BatchNorm2d(4, momentum=0.3), torch.randn(2, 4, 5, 5) * 3 + 1
    live = LiveBatchNorm(bn, 0.3)
    bn(y)
    live.see(y)
    assert torch.allclose(live.running_mean, bn.running_mean)
    assert torch.allclose(live.running_var, bn.running_var)


def test_gradients_reach_weight_scale_and_shift():
    _, _, ready, _ = alive()
    ready.train()(photos(1)[0]).square().mean().backward()
    conv = ready.stem.conv
    assert all(p.grad.abs().sum() > 0 for p in (conv.weight, conv.live.weight, conv.live.bias))


def test_settling_leaves_plain_convolutions_that_compute_the_same():
    _, _, ready, _ = alive()
    x = photos(1)[0]
    ready.train()(x)
    with torch.no_grad():
        want = ready.eval()(x)
        settle(ready)
        assert torch.equal(ready(x), want)
    assert all(c.live is None and c.bias is not None for c in convolutions(ready).values())


def test_a_network_without_batch_normalisation_stays_as_it_is():
    folded = fold_batchnorm(student())
    _, ready = quantized(folded)
    assert enliven(ready, folded, 0.1) == 0
