from __future__ import annotations

import math
import typing

import pytest
import torch

from train.config import LossName
from train.losses import LOSSES

A = torch.zeros(2, 3, 8, 8)
B = torch.full((2, 3, 8, 8), 0.1)


@pytest.fixture
def images():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)


def test_every_name_has_a_loss():
    assert set(typing.get_args(LossName)) == set(LOSSES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("l1", 0.1),
        ("mse", 0.01),
        ("charbonnier", math.sqrt(0.01 + 1e-6)),
        ("psnr", -20.0),
        ("fft", 0.1 * 64 / 128),  # one real coefficient of 64 × 0.1 among 64 complex ones, twice as many numbers
    ],
)
def test_values_of_a_constant_difference(name, value):
    assert LOSSES[name](A, B).item() == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_nearer_is_lower_and_the_gradient_is_finite(name, images):
    output, wanted = images
    far, near = (LOSSES[name](wanted + s * (output - wanted), wanted) for s in (1.0, 0.5))
    assert near < far
    output.requires_grad_()
    LOSSES[name](output, wanted).backward()
    assert output.grad.isfinite().all()
    assert output.grad.abs().sum() > 0
    same = wanted.clone().requires_grad_()
    LOSSES[name](same, wanted).backward()
    assert same.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_average_to_the_whole(name, images):
    output, wanted = images
    parts = [LOSSES[name](output[i : i + 1], wanted[i : i + 1]) for i in range(2)]
    assert LOSSES[name](output, wanted).item() == pytest.approx((sum(parts) / 2).item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(name, bad):
    output = A.clone()
    output[0, 0, 0, 0] = bad
    assert not LOSSES[name](output, B).isfinite()


def straightforward(name, output, wanted):
    """The published formulas, step by step."""
    if name == "l1":
        return (output - wanted).abs().sum() / output.numel()
    if name == "mse":
        return ((output - wanted) ** 2).sum() / output.numel()
    if name == "charbonnier":
        return torch.sqrt((output - wanted) ** 2 + 1e-6).sum() / output.numel()
    if name == "psnr":
        errors = [torch.log(((o - w) ** 2).mean() + 1e-8) for o, w in zip(output, wanted, strict=True)]
        return 10 / math.log(10) * sum(errors) / len(errors)
    ours, theirs = (torch.view_as_real(torch.fft.fft2(x, dim=(-2, -1))) for x in (output, wanted))
    return (ours - theirs).abs().sum() / ours.numel()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_value_and_gradient_are_those_of_the_published_formula(name, images, dtype, tolerance):
    output, wanted = (image.to(dtype) for image in images)
    exact = [image.double() for image in images]
    results = []
    for loss, (a, b) in ((LOSSES[name], (output, wanted)), (lambda x, y: straightforward(name, x, y), exact)):
        x = a.clone().requires_grad_()
        value = loss(x, b)
        value.backward()
        results.append((value.item(), x.grad.double()))
    (value, gradient), (true_value, true_gradient) = results
    assert value == pytest.approx(true_value, rel=tolerance)
    assert gradient.norm().item() == pytest.approx(true_gradient.norm().item(), rel=tolerance)
    assert (gradient - true_gradient).norm() <= 10 * tolerance * true_gradient.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fft_of_half_precision_is_computed_in_single(images, dtype):
    output, wanted = (image.to(dtype) for image in images)
    loss = LOSSES["fft"](output, wanted)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(LOSSES["fft"]((output - wanted).float(), torch.zeros(2, 3, 8, 8)).item())


def test_psnr_is_the_mean_of_the_images_and_not_of_their_errors():
    wanted = torch.stack([B[0], 10 * B[0]])
    assert LOSSES["psnr"](A, wanted).item() == pytest.approx(-10.0, abs=1e-3)


def test_fft_agrees_with_the_transforms_of_both_images(images):
    output, wanted = images
    difference = torch.fft.fft2(output) - torch.fft.fft2(wanted)
    assert LOSSES["fft"](output, wanted).item() == pytest.approx(torch.view_as_real(difference).abs().mean().item(), rel=1e-4)
