from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import UsageError
from tests.train.vgg import SHAPES, vgg_state, write_vgg
from train.config_losses import VGG19_LAYERS
from train.perceptual import PerceptualLoss, vgg19


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_vgg(tmp_path_factory.mktemp("vgg") / "vgg19.pth")


def images(dtype=torch.float32, side=16):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.rand(2, 3, side, side, generator=generator, dtype=dtype) for _ in range(2))


def straightforward(image, last_relu):
    """VGG19 to conv3_3, layer by layer."""
    state = {name: tensor.to(image.dtype) for name, tensor in vgg_state().items()}
    for index in SHAPES:
        if index in (5, 10):
            image = F.max_pool2d(image, 2, 2)
        image = F.conv2d(image, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
        if index != 14 or last_relu:
            image = F.relu(image)
    return image


def test_the_layers_have_torchvision_s_indices():
    published = {
        "conv1_1": 0,
        "relu1_2": 3,
        "conv2_1": 5,
        "conv3_3": 14,
        "relu3_3": 15,
        "conv3_4": 16,
        "relu4_4": 26,
        "conv5_4": 34,
        "relu5_4": 35,
    }
    assert {name: VGG19_LAYERS[name] for name in published} == published
    whole = vgg19("relu5_4")
    kinds = {"conv": torch.nn.Conv2d, "relu": torch.nn.ReLU}
    assert all(isinstance(whole[index], kinds[name[:4]]) for name, index in VGG19_LAYERS.items())
    assert sum(p.numel() for p in whole.parameters()) == 20_024_384  # the convolutional part of VGG19


def prepared(image, input_range):
    if input_range == "unit":
        return image
    if input_range == "signed":
        return 2 * image - 1
    mean, std = (torch.tensor(v).to(image.dtype)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return (image - mean) / std


@pytest.mark.parametrize(("layer", "last_relu"), [("conv3_3", False), ("relu3_3", True)])
@pytest.mark.parametrize("input_range", ["unit", "signed", "imagenet"])
def test_value_and_gradient_are_those_of_the_published_formula(weights, layer, last_relu, input_range):
    loss = PerceptualLoss(weights, layer, input_range).double()
    output, wanted = images(torch.float64)

    def published(a, b):
        return F.mse_loss(*(straightforward(prepared(x, input_range), last_relu) for x in (a, b)))

    results = []
    for compute in (loss, published):
        x = output.clone().requires_grad_()
        value = compute(x, wanted)
        value.backward()
        results.append((value.item(), x.grad.norm().item()))
    assert results[0] == pytest.approx(results[1], rel=1e-10)


def test_it_is_frozen_and_nothing_reaches_the_sharp_image(weights):
    loss = PerceptualLoss(weights, "conv2_1")
    output, wanted = (x.requires_grad_() for x in images())
    loss(output, wanted).backward()
    assert output.grad.abs().sum() > 0
    assert wanted.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert loss(wanted, wanted).item() == 0


def test_only_the_layers_needed_are_built_and_read(tmp_path):
    path = tmp_path / "first.pth"
    torch.save({name: tensor for name, tensor in vgg_state().items() if name.startswith("features.0.")}, path)
    loss = PerceptualLoss(path, "relu1_1")
    assert [type(layer).__name__ for layer in loss.layers] == ["Conv2d", "ReLU"]


def test_safetensors_serve_as_well(tmp_path, weights):
    from safetensors.torch import save_file

    save_file(vgg_state(), tmp_path / "vgg.safetensors")
    a, b = images()
    assert torch.equal(PerceptualLoss(tmp_path / "vgg.safetensors")(a, b), PerceptualLoss(weights)(a, b))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


HINT = r"\nhint: give torchvision's VGG19 weights, vgg19-dcbb9e9d\.pth"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"conv.weight": torch.zeros(3)}, r"vgg\.pth: holds no VGG19: there is no 'features\.0\.weight' in it" + HINT),
        (
            {**vgg_state(), "features.5.weight": torch.zeros(128, 64, 1, 1)},
            r"'features\.5\.weight' is \[128, 64, 1, 1\], not \[128, 64, 3, 3\]" + HINT,
        ),
        (Bomb(), r"vgg\.pth: .*code in a file is never run"),
    ],
)
def test_another_file_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "vgg.pth")
    with pytest.raises(UsageError, match=message):
        PerceptualLoss(tmp_path / "vgg.pth")
    assert not Path("exploded").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"lost\.pth: no such file"):
        PerceptualLoss(tmp_path / "lost.pth")
