"""Perceptual loss: the distance between images as VGG19 sees them (Johnson et al., ECCV 2016; Simonyan & Zisserman, ICLR 2015).

The weights come from a file with torchvision's names, ``features.<index>.weight`` and ``.bias``; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights import read_state
from pipeline.errors import UsageError
from train.config_losses import VGG19_LAYERS, InputRange

_PLAN = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)  # channels; 0: 2x2 max pooling
_HINT = "give torchvision's VGG19 weights, vgg19-dcbb9e9d.pth (from download.pytorch.org/models)"
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours, as torchvision normalises them


class PerceptualLoss(nn.Module):
    """Mean squared difference of VGG19's features; frozen.

    Args:
        weights: file of VGG19's weights; what lies behind ``layer`` is not read.
        layer: name of the last layer that is computed, e.g. relu3_3, or conv3_3 for the convolution without its ReLU.
        input_range: what the layers are given of images in [0, 1].

    Raises:
        UsageError: no such file, one that holds no weights, or others than VGG19's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: Path, layer: str = "relu3_3", input_range: InputRange = "imagenet") -> None:
        super().__init__()
        self.layers = vgg19(layer)
        self.layers.load_state_dict(_weights_for(self.layers, read_state(weights), weights))
        mean, std = {"imagenet": (_MEAN, _STD), "signed": ((0.5,) * 3, (0.5,) * 3), "unit": ((0.0,) * 3, (1.0,) * 3)}[input_range]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, output: Tensor, wanted: Tensor) -> Tensor:
        """The loss between two batches of images, float32 [N, 3, H, W] in [0, 1]; differentiable in ``output`` alone."""
        with torch.no_grad():
            features = self.features(wanted)
        return F.mse_loss(self.features(output), features)

    def features(self, image: Tensor) -> Tensor:
        """What the layer says of ``image``, [N, C, h, w]."""
        found: Tensor = self.layers((image - self.mean) / self.std)
        return found


def vgg19(layer: str) -> nn.Sequential:
    """VGG19's convolutional part up to and including ``layer``, with torchvision's indices, freshly initialised."""
    wanted = VGG19_LAYERS[layer]
    layers: list[nn.Module] = []
    before = 3
    for channels in _PLAN:
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()] if channels else [nn.MaxPool2d(2)]
        before = channels or before
    return nn.Sequential(*layers[: wanted + 1])


def _weights_for(layers: nn.Module, found: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in layers.state_dict().items():
        published = f"features.{name}"
        if published not in found:
            raise UsageError(str(path), f"holds no VGG19: there is no '{published}' in it", _HINT)
        if found[published].shape != tensor.shape:
            what = f"holds no VGG19: '{published}' is {list(found[published].shape)}, not {list(tensor.shape)}"
            raise UsageError(str(path), what, _HINT)
        weights[name] = found[published]
    return weights
