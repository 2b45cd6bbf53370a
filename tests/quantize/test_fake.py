import copy

import pytest
import torch
from torch import nn

from models.fold import fold_batchnorm
from quantize.calibrate import observe, set_scales
from quantize.fake import ActivationQuantizer, quantized_conv
from quantize.insert import convolutions, prepare, quantizers, set_all_float, set_float
from tests.quantize.toys import photos, quantized, student


def quantizer(scale=0.1, **options):
    out = ActivationQuantizer("t", 1, **options)
    out.set_scale(scale)
    return out


def test_an_8_bit_image_is_not_rounded_where_it_is_unsigned():
    network = prepare(fold_batchnorm(student()), unsigned=True)
    set_scales(network, observe(network, photos(1)), "percentile")
    quantizer = next(q for q in quantizers(network).values() if q.is_picture)
    image = torch.arange(256).float() / 255
    assert (quantizer.rounded(image) - image).abs().max() < 1e-7
    assert [p for p in quantizer.parameters() if p.requires_grad] == [], "nor is its step learned"


def test_an_unsigned_tensor_has_255_steps_above_0():
    quantizer = ActivationQuantizer("x", 0, non_negative=True, unsigned=True)
    quantizer.set_scale(0.5)
    x = torch.tensor([-1.0, 0.2, 0.3, 100.0, 127.5, 200.0])
    want = torch.tensor([0.0, 0.0, 0.5, 100.0, 127.5, 127.5])
    assert torch.equal(quantizer.rounded(x), want)
    assert torch.equal(quantizer(x.clone().requires_grad_()), want), "with gradients the same"


def test_values_land_on_the_grid_and_clip_at_its_ends():
    out = quantizer(0.1)(torch.tensor([[0.04, 0.06, -0.26, 99.0, -99.0]]))
    assert torch.allclose(out, torch.tensor([[0.0, 0.1, -0.3, 12.7, -12.8]]))


def test_rounding_is_the_same_with_and_without_gradients():
    q, x = quantizer(0.0371), torch.randn(2, 3, 50, 50) * 3
    with torch.no_grad():
        fast = q(x)
    assert (fast - q(x)).abs().max() <= 0.0372  # a tie may fall to either side
    assert (fast != q(x)).float().mean() < 1e-3


def test_a_scale_that_is_not_learnable_has_no_gradient():
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    fixed, free = quantizer(), quantizer()
    fixed.set_scale(0.1, learnable=False)
    (fixed(x) * x).sum().backward()
    (free(x) * x).sum().backward()
    assert fixed.log_step.grad is None
    assert free.log_step.grad.abs() > 0
    assert torch.isfinite(x.grad).all()
    fixed.set_scale(0.2)
    assert fixed.log_step.requires_grad


def test_a_follower_rounds_with_its_leaders_scale_and_is_switched_with_it():
    leader = quantizer(0.1)
    follower = ActivationQuantizer("f", 2, leader=leader)
    assert follower.scale.item() == leader.scale.item()
    assert not list(follower.parameters())
    follower.enabled = False
    x = torch.tensor([[0.04]])
    assert leader(x) is x


def test_a_copy_keeps_who_follows_whom_among_the_copies():
    _, ready = quantized(student(skip="concat", upsample="nearest"))
    twin = copy.deepcopy(ready)
    for q in quantizers(twin).values():
        q.set_scale(3.0)
    assert all(q.scale.item() != 3.0 for q in quantizers(ready).values())
    assert all(c.source[0] is quantizers(twin)[c.source[0].name] for c in convolutions(twin).values())


def test_the_scale_never_turns_negative_and_is_learned_in_proportion():
    q = quantizer(0.1)
    with torch.no_grad():
        q.log_step.fill_(-5.0)
    assert 0 < q.scale.item() < 0.1


def test_gradients_reach_step_size_and_weights():
    conv = quantized_conv(nn.Conv2d(3, 4, 3), "conv", quantizer(0.05))
    x = torch.randn(2, 3, 8, 8)
    conv(conv.source[0](x)).square().mean().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert conv.source[0].log_step.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(6, 8, 3, groups=2), lambda: nn.ConvTranspose2d(6, 8, 2, 2)])
def test_integer_weights_times_scale_are_the_weights_that_are_multiplied_with(make):
    float_conv = make()
    conv = quantized_conv(float_conv, "conv", quantizer())
    axis = conv.granularity.axis
    scale = conv.weight_scale()
    assert scale.shape == (8,)
    shape = [-1 if d == axis else 1 for d in range(4)]
    assert torch.equal(conv.integer_weight().float() * scale.reshape(shape), conv.fake_weight())
    assert conv.integer_weight().abs().max() == 127
    assert (conv.fake_weight() - float_conv.weight).abs().max() <= scale.max() / 2 + 1e-7


def test_a_dead_channel_still_has_a_scale():
    conv = quantized_conv(nn.Conv2d(3, 4, 1), "conv", quantizer())
    with torch.no_grad():
        conv.weight[1] = 0
    assert (conv.weight_scale() > 0).all()
    assert torch.isfinite(conv.fake_weight()).all()


def test_all_float_is_the_float_network_bit_for_bit():
    folded, ready = quantized(student())
    x = photos(1)[0]
    with torch.no_grad():
        set_all_float(ready)
        assert torch.equal(ready(x), folded(x))
        set_float(ready, ())
        assert not torch.equal(ready(x), folded(x))
