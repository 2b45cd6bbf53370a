"""Which part of a photograph a synthesized pair shows: a random window with texture in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data.synthesis import Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 8
"""Pixels between a window and the photograph's border: what moves into the picture is real, not mirrored."""

_CANDIDATES = 16  # windows tried before the one with most texture is taken
_MIN_TEXTURE = 4.0  # mean step between neighbouring pixels of a grey window, in 8-bit levels; a plain wall has about 1


def shrunk(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """``image`` [H, W, 3] scaled down by ``factor`` (at least 1), each pixel the mean of what it covers."""
    import cv2

    if factor == 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA), np.uint8)


def texture_integral(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Integral of the texture of uint8 RGB [H, W, 3]: float64 [H + 1, W + 1], sums of the steps between neighbouring grey levels."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    steps = np.hypot(np.diff(grey, axis=0, append=grey[-1:]), np.diff(grey, axis=1, append=grey[:, -1:]))
    return np.asarray(cv2.integral(np.minimum(steps, 255).astype(np.uint8), sdepth=cv2.CV_64F), np.float64)


def textured_window(rng: np.random.Generator, integral: NDArray[Any], size: int) -> Window:
    """A random window with texture, at most ``size`` on a side, ``MARGIN`` from the border; ``integral`` is the photograph's."""
    free = integral.shape[0] - 1 - 2 * MARGIN, integral.shape[1] - 1 - 2 * MARGIN
    height, width = min(size, free[0]), min(size, free[1])
    best, most = Window(MARGIN, MARGIN, height, width), -1.0
    for _ in range(_CANDIDATES):
        top, left = (MARGIN + int(rng.integers(f - side + 1)) for f, side in zip(free, (height, width), strict=True))
        bottom, right = top + height, left + width
        texture = (integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]) / (height * width)
        if texture > most:
            best, most = Window(top, left, height, width), texture
        if most >= _MIN_TEXTURE:
            break
    return best
