from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import nn

from models.arch import load_arch
from models.pyramid import pyramid
from pipeline.errors import UsageError
from pipeline.yamlfile import validate
from tests.models.helpers import image, small
from tests.train.toys import SIDE, ToyCrops, ToyNet, Words, toy_config
from tests.train.vgg import write_vgg
from train.config_losses import Adversarial, LossTerm
from train.determinism import seeded
from train.loop import fit
from train.losses import LOSSES
from train.terms import TermsLoss, smaller


class ThreeScales(nn.Module):
    """One convolution, applied at three scales."""

    size_multiple = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def outputs(self, lq):
        return [x + self.conv(x) for x in (lq, lq[..., ::2, ::2], lq[..., ::4, ::4])]

    def forward(self, lq):
        return self.outputs(lq)[0]


@pytest.fixture
def network():
    with seeded("three scales"):
        return ThreeScales().double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(2, 3, 16, 24, generator=generator, dtype=torch.float64) for _ in range(2))


def terms(*settings):
    return tuple(LossTerm.model_validate(s) for s in settings)


def value_and_gradient(network, compute):
    network.zero_grad()
    value = compute()
    value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in network.parameters()]).norm().item()


def fourier_l1(a, b):
    return F.l1_loss(torch.view_as_real(torch.fft.fft2(a)), torch.view_as_real(torch.fft.fft2(b)))


def test_mimo_unet_s_loss_is_the_published_one(network, batch):
    lq, gt = batch
    loss = TermsLoss(terms({"name": "l1", "scales": "all"}, {"name": "fft", "scales": "all", "weight": 0.1}))

    def published():
        full, half, quarter = network.outputs(lq)
        half_gt = F.interpolate(gt, scale_factor=0.5, mode="bilinear")
        quarter_gt = F.interpolate(gt, scale_factor=0.25, mode="bilinear")
        pairs = [(quarter, quarter_gt), (half, half_gt), (full, gt)]
        return sum(F.l1_loss(a, b) for a, b in pairs) + 0.1 * sum(fourier_l1(a, b) for a, b in pairs)

    found = value_and_gradient(network, lambda: loss(network, lq, gt)[0])
    assert found == pytest.approx(value_and_gradient(network, published), rel=1e-12)


def test_srn_s_loss_is_the_published_one_in_signed_images(network, batch):
    lq, _ = batch
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    gt = torch.from_numpy(pictures).permute(0, 3, 1, 2).double() / 255
    loss = TermsLoss(terms({"name": "mse", "scales": "all", "weight": 4, "reduce": "antialias"}))

    def pil_half(images):
        bands = [[Image.fromarray(band.numpy().astype(np.float32)) for band in image] for image in images]
        width, height = bands[0][0].size
        halves = [[np.asarray(b.resize((width // 2, height // 2), Image.Resampling.BILINEAR)) for b in image] for image in bands]
        return torch.from_numpy(np.array(halves)).double()

    half_gt = pil_half(gt)
    targets = [gt, half_gt, pil_half(half_gt)]

    def published():
        return sum(F.mse_loss(2 * out - 1, 2 * wanted - 1) for out, wanted in zip(network.outputs(lq), targets, strict=True))

    found = value_and_gradient(network, lambda: loss(network, lq, gt)[0])
    assert found == pytest.approx(value_and_gradient(network, published), rel=1e-6)  # PIL's resampling is in single precision


def test_mimo_unet_s_gradient_is_that_of_the_published_network_and_loss():
    network = small("mimounet").double()
    official = load_arch("mimounet").official(network)
    lq, gt = (image(32, side).double() for side in (48, 48))
    gt = gt.flip(-1)
    loss = TermsLoss(terms({"name": "l1", "scales": "all"}, {"name": "fft", "scales": "all", "weight": 0.1}))

    def published():
        targets = [F.interpolate(gt, scale_factor=s, mode="bilinear") for s in (0.25, 0.5)] + [gt]
        pairs = list(zip(official(lq), targets, strict=True))
        return sum(F.l1_loss(a, b) for a, b in pairs) + 0.1 * sum(fourier_l1(a, b) for a, b in pairs)

    found = value_and_gradient(network, lambda: loss(network, lq, gt)[0])
    assert found == pytest.approx(value_and_gradient(network, published), rel=1e-10)


def test_srn_s_gradient_is_that_of_the_published_network_and_loss():
    network = small("srn", pyramid="antialias").double()
    official = load_arch("srn").official(network)
    lq = image(32, 48).double()
    gt = lq.flip(-1)
    loss = TermsLoss(terms({"name": "mse", "scales": "all", "weight": 4, "reduce": "antialias"}))

    def published():
        blurred, sharp = (pyramid(2 * x - 1, 3, "antialias") for x in (lq, gt))
        return sum(F.mse_loss(out, wanted) for out, wanted in zip(official(*blurred), sharp, strict=True))

    found = value_and_gradient(network, lambda: loss(network, lq, gt)[0])
    assert found == pytest.approx(value_and_gradient(network, published), rel=1e-10)


@pytest.mark.parametrize("how", ["nearest", "bicubic", "bilinear"])
def test_targets_are_those_of_interpolate(batch, how):
    gt = batch[1]
    half = F.interpolate(gt, scale_factor=0.5, mode=how)
    quarter = F.interpolate(gt if how == "bilinear" else half, scale_factor=0.5 if how != "bilinear" else 0.25, mode=how)
    for found, wanted in zip(smaller(gt, 3, how), (gt, half, quarter), strict=True):
        assert torch.allclose(found, wanted, atol=1e-12)


def test_one_plain_term_is_the_plain_loss_bit_for_bit(batch):
    lq, gt = (x.float() for x in batch)
    with seeded("toy"):
        toy = ToyNet()
    for name, plain in LOSSES.items():
        total, parts = TermsLoss(terms({"name": name}))(toy, lq, gt)
        assert torch.equal(total, plain(toy(lq), gt)) and torch.equal(parts[name], total)


def test_terms_are_logged_unweighted_and_apart(network, batch):
    total, parts = TermsLoss(terms({"name": "l1"}, {"name": "mse", "weight": 3}, {"name": "l1", "scales": "all"}))(network, *batch)
    assert list(parts) == ["l1", "mse", "l12"]
    assert total.item() == pytest.approx((parts["l1"] + 3 * parts["mse"] + parts["l12"]).item())
    assert parts["mse"].item() == pytest.approx(F.mse_loss(network(batch[0]), batch[1]).item())
    assert parts["l12"] > parts["l1"]


def test_a_perceptual_term_follows_the_images_and_counts(tmp_path, network, batch):
    path = write_vgg(tmp_path / "vgg.pth")
    loss = TermsLoss(terms({"name": "perceptual", "weights": path, "layer": "conv2_1", "range": "signed", "weight": 100}))
    total, parts = loss(network, *batch)
    assert total.dtype is torch.float64
    assert total.item() == pytest.approx(100 * parts["perceptual"].item())
    single, _ = loss(network.float(), *(x.float() for x in batch))
    assert single.dtype is torch.float32 and single.item() == pytest.approx(total.item(), rel=1e-4)


def test_scales_that_a_network_does_not_restore_are_said():
    loss = TermsLoss(terms({"name": "l1"}, {"name": "fft", "scales": "all"}))
    message = r"^stages\.teach\.with\.loss\.1\.scales: the network restores the full size alone, but 'fft' is to compare all scales\nhint: "
    with pytest.raises(UsageError, match=message):
        loss.require(ToyNet(), "stages.teach.with.loss")
    loss.require(ThreeScales(), "loss")
    TermsLoss(terms({"name": "l1"})).require(ToyNet(), "loss")


def test_the_loop_trains_all_scales(tmp_path):
    with seeded("three scales"):
        net = ThreeScales()
    words = Words()
    loss = TermsLoss(terms({"name": "l1", "scales": "all"}, {"name": "fft", "scales": "all", "weight": 0.1}))
    lq, gt = (torch.from_numpy(np.stack(images)) for images in zip(*(ToyCrops()[k] for k in range(4)), strict=True))
    before = loss(net, lq, gt)[0].item()
    fit(net, loss, ToyCrops(), toy_config(steps=60), tmp_path, words, label="toy")
    assert loss(net, lq, gt)[0].item() < 0.9 * before
    assert set(words.updates[-1][3]) == {"loss", "l1", "fft", "lr"} and SIDE % net.size_multiple == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "l3"}, "name: input should be 'l1', 'charbonnier', 'mse', 'psnr', 'fft' or 'perceptual' (got 'l3')"),
        ({"name": "perceptual"}, "a perceptual term needs 'weights', the file of VGG19's weights (torchvision's vgg19-dcbb9e9d.pth)"),
        ({"name": "l1", "layer": "conv3_3"}, "'layer' goes with 'name: perceptual' alone"),
        ({"name": "perceptual", "weights": "a", "layer": "rel3_3"}, "layer: VGG19 has no layer 'rel3_3'\nhint: did you mean 'relu3_3'?"),
        ({"name": "l1", "weight": 0}, "weight: input should be greater than 0 (got 0)"),
        ({"name": "l1", "wieght": 1}, "wieght: unknown key\nhint: did you mean 'weight'?"),
    ],
)
def test_what_is_wrong_with_a_term_is_named(value, message):
    with pytest.raises(UsageError) as e:
        validate(LossTerm, value, "recipe.yaml", "loss.0")
    assert message in str(e.value)


def test_everything_has_a_description_and_bad_numbers_are_refused():
    assert all(field.description for model in (LossTerm, Adversarial) for field in model.model_fields.values())
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValidationError):
            LossTerm(name="l1", weight=bad)
        with pytest.raises(ValidationError):
            Adversarial(weight=bad)
