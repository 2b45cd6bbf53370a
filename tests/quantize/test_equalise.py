import copy

import pytest
import torch
from torch import nn

from models.fold import fold_batchnorm
from pipeline.errors import StageFailed
from quantize.calibrate import observe, set_scales
from quantize.equalise import correct_biases, equalise
from quantize.insert import convolutions, prepare, quantizers, set_all_float, set_float
from tests.quantize.toys import PATTERNS, SMALL, db, photos, quantized, student

DEPTHWISE = {**SMALL, "high_scales": 0, "depths": [1, 2, 2]}


def uneven(config, channel=0, factor=300):
    """A student one of whose hidden channels is much larger than the others, undone in the next weights."""
    network = student(**config)
    block = network.encoder[0][0]
    following = block.project.conv if block.depthwise is None else block.depthwise.conv
    axis = 0 if block.depthwise is not None else 1
    with torch.no_grad():
        block.expand.bn.weight[channel] *= factor
        block.expand.bn.bias[channel] *= factor
        following.weight.select(axis, channel).div_(factor)
    return network


def int8_of(folded, images):
    ready = prepare(folded)
    set_scales(ready, observe(ready, images), "minmax")
    set_float(ready, ["head"])  # its grey levels alone are 59 dB
    return ready


@pytest.mark.parametrize("config", [SMALL, DEPTHWISE, {**SMALL, "upsample": "deconv"}], ids=["dense", "depthwise", "deconv"])
def test_it_computes_the_same_and_saves_what_uneven_channels_cost(config):
    images = photos(2)
    folded = fold_batchnorm(uneven(config))
    equal = equalise(folded, images)
    x = images[0]
    with torch.no_grad():
        assert db(equal(x), folded(x)) >= 90
        before, after = (db(int8_of(n, images)(x), folded(x)) for n in (folded, equal))
    assert after > before + 3


def test_the_input_is_left_as_it_is():
    folded = fold_batchnorm(uneven(SMALL))
    before = copy.deepcopy(folded.state_dict())
    equalise(folded, photos(1))
    assert all(torch.equal(v, before[k]) for k, v in folded.state_dict().items())


def test_a_depthwise_convolutions_channels_become_equal():
    images = photos(2)
    equal = equalise(fold_batchnorm(uneven(DEPTHWISE)), images)
    seen = []
    equal.encoder[0][0].expand.act.register_forward_hook(lambda m, a, out: seen.append(out.amax((0, 2, 3))))
    with torch.no_grad():
        equal(images[0])
        equal(images[1])
    ranges = torch.stack(seen).mean(0)
    assert ranges[ranges > 0].max() / ranges[ranges > 0].min() < 1.01


@pytest.mark.parametrize("config", PATTERNS.values(), ids=PATTERNS)
def test_every_pattern_computes_the_same(config):
    folded, images = fold_batchnorm(student(**config)), photos(1)
    equal = equalise(folded, images)
    with torch.no_grad():
        assert db(equal(images[0]), folded(images[0])) >= 110
    assert any(not torch.equal(v, folded.state_dict()[k]) for k, v in equal.state_dict().items())


def uneven_stream(factor=100):
    """A student one of whose channels at full resolution is much larger wherever it occurs, undone in all that read it."""
    folded = fold_batchnorm(student(**SMALL))
    block, last = folded.encoder[0][0], folded.decoder[1]
    with torch.no_grad():
        for writer in (folded.stem.conv, block.project.conv, last.up.conv.conv, last.blocks[0].project.conv):
            writer.weight[0] *= factor
            writer.bias[0] *= factor
        for reader in (block.expand.conv, folded.encoder[1][0].expand.conv, last.blocks[0].expand.conv, folded.head):
            reader.weight[:, 0] /= factor
    return folded


def test_a_residual_stream_is_made_even_along_its_sums_and_skips():
    images, folded = photos(2), uneven_stream()
    plain = fold_batchnorm(student(**SMALL))
    x = images[0]
    with torch.no_grad():
        assert db(folded(x), plain(x)) >= 90  # the same network, said badly
        before, after, even = (db(int8_of(n, images)(x), plain(x)) for n in (folded, equalise(folded, images), equalise(plain, images)))
    assert after > before + 6
    assert after > even - 1


class Hidden(nn.Module):
    """Something is computed between its modules that no hook sees."""

    size_multiple = 1

    def __init__(self):
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 1)

    def forward(self, lq):
        hidden = self.act(self.first(lq))
        return self.last(hidden) + torch.sigmoid(hidden[:, :3])


def test_what_is_computed_outside_of_modules_is_noticed():
    torch.manual_seed(0)
    with pytest.raises(StageFailed, match=r"equal channel ranges change what Hidden computes by .* it computes outside of its modules"):
        equalise(Hidden(), photos(1))


class Chain(nn.Module):
    size_multiple = 1

    def __init__(self, act):
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 6, 3, padding=1), act, nn.ConvTranspose2d(6, 3, 2, 2)

    def forward(self, lq):
        return self.last(self.act(self.first(lq)))


@pytest.mark.parametrize("act", [nn.LeakyReLU(0.2), nn.PReLU(6)], ids=["leaky", "prelu"])
def test_other_homogeneous_activations_and_a_transposed_convolution(act):
    torch.manual_seed(0)
    chain, x = Chain(act), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        chain.first.weight[2] *= 50
        chain.first.weight[4], chain.first.bias[4] = 0, 0  # a dead channel
        equal = equalise(chain, [x])
        assert torch.allclose(equal(x), chain(x), atol=1e-5)
    assert not torch.equal(equal.first.weight, chain.first.weight)
    assert torch.isfinite(equal.last.weight).all()


def test_bias_correction_takes_the_mean_error_away():
    images = photos(3)
    folded, ready = quantized(student(), images)
    for q in quantizers(ready).values():
        if q.leader is q:
            q.set_scale(q.scale.item() * 0.4)  # much is clipped: the means move
    corrected = copy.deepcopy(ready)
    correct_biases(corrected, images)
    with torch.no_grad():
        errors = {
            n: sum((net(x) - folded(x)).mean((0, 2, 3)).abs().sum() for x in images) for n, net in (("raw", ready), ("bc", corrected))
        }
    assert errors["bc"] < 0.7 * errors["raw"]
    assert all(q.enabled for q in quantizers(corrected).values())


def test_bias_correction_knows_the_error_of_a_convolution_exactly():
    torch.manual_seed(0)
    images = [torch.rand(1, 3, 16, 16)]
    network = prepare(Chain(nn.ReLU()))
    set_scales(network, observe(network, images), "minmax")
    with torch.no_grad():
        set_all_float(network)
        want = network.first(images[0]).mean((0, 2, 3))
        set_float(network, ["act", "last"])  # the input and the first weights alone in int8
        correct_biases(network, images)
        assert [q.enabled for q in quantizers(network).values()] == [True, False, False]
        got = network.first(images[0]).mean((0, 2, 3))
    assert torch.allclose(got, want, atol=1e-6)


def test_convolutions_in_float_keep_their_bias():
    images = photos(1)
    _, ready = quantized(student(), images)
    set_float(ready, ["stem.act"])
    before = {n: c.bias.clone() for n, c in convolutions(ready).items()}
    correct_biases(ready, images)
    same = {n for n, c in convolutions(ready).items() if torch.equal(c.bias, before[n])}
    assert same == {n for n, c in convolutions(ready).items() if not c.quantized}
    assert same
