"""VGG19 weights made up: files with torchvision's names and shapes."""

from __future__ import annotations

from pathlib import Path

import torch

SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256)}
"""torchvision's index -> channels out and in, up to conv3_3."""


def vgg_state(seed=0):
    """Weights under which the features keep about the size of their input."""
    generator = torch.Generator().manual_seed(seed)
    state = {"classifier.0.weight": torch.zeros(4, 4)}
    for index, (out, into) in SHAPES.items():
        state[f"features.{index}.weight"] = torch.randn(out, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5
        state[f"features.{index}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return state


def write_vgg(path: Path) -> Path:
    torch.save(vgg_state(), path)
    return path
