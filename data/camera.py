"""The camera's electronics: pixel values to linear light and back, and sensor noise.

Averaging happens in linear light, as the sensor does it; frames of a video are gamma-encoded, which is why GoPro's synthesis
(Nah et al., CVPR 2017, section 2) inverts the response curve first. Noise is the usual two-part model of a sensor in linear light:
variance = shot * signal + read^2 (Foi et al., IEEE TIP 2008).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from data.images import check_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

Gamma = Literal["srgb"] | Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""The response curve: IEC 61966-2-1 (sRGB), or the exponent of a plain power law (GoPro's authors use 2.2)."""


def to_linear(image: NDArray[np.uint8], gamma: Gamma) -> NDArray[np.float32]:
    """Linear light of an image: uint8 RGB [H, W, 3] -> float32 [H, W, 3] in [0, 1]."""
    import cv2

    check_rgb(image)
    level = np.arange(256) / 255
    srgb = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    table = srgb if gamma == "srgb" else level**gamma
    return np.asarray(cv2.LUT(image, table.astype(np.float32)), np.float32)


def to_pixels(linear: NDArray[np.float32], gamma: Gamma) -> NDArray[np.uint8]:
    """Inverse of ``to_linear``: clipped to [0, 1], encoded, rounded to 8 bit."""
    import cv2

    light = np.clip(linear, 0, 1)
    if gamma == "srgb":
        level = np.where(light <= 0.0031308, light * 12.92, cv2.pow(light, 1 / 2.4) * 1.055 - 0.055)
    else:
        level = cv2.pow(light, 1 / gamma)
    return (level * 255 + 0.5).astype(np.uint8)


def add_noise(rng: np.random.Generator, linear: NDArray[np.float32], read: float, shot: float) -> NDArray[np.float32]:
    """Sensor noise on float32 [H, W, 3] linear light: Gaussian with variance ``read``^2 + ``shot`` * signal."""
    sigma = np.sqrt(np.maximum(linear, 0) * np.float32(shot) + np.float32(read) ** 2)
    return np.asarray(linear + sigma * rng.standard_normal(linear.shape, np.float32), np.float32)


def warp(light: NDArray[np.float32], seen: NDArray[np.float64], height: int, width: int, *, mirror: bool = True) -> NDArray[np.float32]:
    """Resample float32 [H, W, C] bilinearly to [height, width, C].

    Args:
        light: the image to look at.
        seen: float64 [2, 3]; maps a pixel (x, y) of the result to the place in ``light`` that it sees.
        height: of the result, in pixels.
        width: of the result, in pixels.
        mirror: outside ``light`` its mirror image is seen; otherwise zero.
    """
    import cv2

    border = cv2.BORDER_REFLECT_101 if mirror else cv2.BORDER_CONSTANT
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(light, seen, (width, height), flags=flags, borderMode=border), np.float32)
