"""Pictures made for the tests."""

from pathlib import Path

import numpy as np

from data.images import write_image


def texture(height=96, width=128, seed=0):
    """A smooth random colour picture: uint8 RGB [height, width, 3]."""
    import cv2

    rough = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3)).astype(np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def psnr(a, b):
    """PSNR in dB of two uint8 images."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def write_pairs(root: Path, names, size=(40, 48), folder=("blur", "sharp")):
    """PNG pairs below ``root``; blurred and sharp differ, and every name has its own picture."""
    for i, name in enumerate(names):
        for part, offset in zip(folder, (0, 1000), strict=True):
            write_image(root / part / f"{name}.png", texture(*size, seed=i + offset))
