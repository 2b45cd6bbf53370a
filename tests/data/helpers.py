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


def write_video(path: Path, frames, codec="mp4v"):
    """A video of uint8 RGB frames, with a key frame every 12."""
    import cv2

    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 30, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1].copy())
    writer.release()


def panning(count, step=2, height=64, width=96, seed=0):
    """Frames that look further to the right by ``step`` pixels each."""
    scene = texture(height, width + 8 * (count * step // 8 + 1), seed)
    return [scene[:, i * step : i * step + width].copy() for i in range(count)]
