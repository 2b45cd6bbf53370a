"""Blur synthesis: a sharp photograph becomes a pair of a blurred and a sharp image.

The method is GoPro's (Nah, Kim & Lee, "Deep Multi-Scale Convolutional Neural Network for Dynamic Scene Deblurring", CVPR 2017):
sharp sub-frames are averaged in linear light and encoded again, and the middle sub-frame is the sharp image. As there is one
photograph instead of a video, the sub-frames are rendered: camera shake (``data.trajectory``), a moving object
(``data.foreground``), then sensor noise and 8 bit (``data.camera``).

Everything follows from (seed, index): the same pair on every call, with any number of threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from data.bounds import ordered
from data.camera import Gamma, add_noise, to_linear, to_pixels, warp
from data.foreground import Foreground, draw_foreground, paste
from data.images import check_rgb, one_thread
from data.trajectory import Motion, draw_motion

if TYPE_CHECKING:
    from numpy.typing import NDArray

SYNTHESIS_VERSION = 1
"""Part of every digest: raise it when a change here, or in a module named above, changes the bytes of a pair."""

_CENTRE_SPREAD = 256.0  # pixels: how far the rotation's centre lies from the middle of the picture, at most, in x and in y


def _odd(count: int) -> int:
    if count % 2 == 0:
        raise ValueError(f"{count} is even: the sharp image is the middle sub-frame, so the number must be odd")
    return count


_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Range = Annotated[tuple[_Amount, _Amount], AfterValidator(ordered)]


class BlurSettings(BaseModel):
    """How strong the blur is. Every pair draws its own values, uniformly between the two bounds where there are two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    length: _Range = Field(default=(3, 7), description="length of the camera's path during the exposure, in pixels: [least, most]")
    rotation: _Range = Field(default=(0, 0.5), description="in-plane rotation during the exposure, in degrees: [least, most]")
    tremor: _Range = Field(default=(0.1, 1.0), description="how much the camera's path bends, in radians: [least, most]; 0 is straight")
    subframes: Annotated[int, AfterValidator(_odd)] = Field(
        default=21, ge=3, le=255, description="sharp sub-frames averaged into one blurred image; odd, the middle one is the sharp image"
    )
    foreground: float = Field(default=0.5, ge=0, le=1, description="probability of an object that moves on its own")
    foreground_radius: _Range = Field(
        default=(0.12, 0.3), description="radius of that object, as a fraction of the image's shorter side: [least, most]"
    )
    foreground_speed: _Range = Field(
        default=(2, 7), description="way of that object during the exposure, in pixels, on top of the shake: [least, most]"
    )
    read_noise: _Range = Field(
        default=(0.0002, 0.001), description="standard deviation of the noise without light, full scale = 1 in linear light: [least, most]"
    )
    shot_noise: _Range = Field(
        default=(0.00002, 0.0001), description="variance of the photon noise at full scale = 1 in linear light: [least, most]"
    )
    gamma: Gamma = Field(default="srgb", description="response curve of the camera: srgb, or the exponent of a power law such as 2.2")


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of ``image`` [H, W, ...] inside the rectangle (a view)."""
        return image[self.top : self.top + self.height, self.left : self.left + self.width]

    def grown(self, by: int, image: NDArray[np.uint8]) -> Window:
        """The rectangle with ``by`` more pixels on each side, as far as ``image`` reaches."""
        top, left = max(0, self.top - by), max(0, self.left - by)
        bottom, right = min(image.shape[0], self.top + self.height + by), min(image.shape[1], self.left + self.width + by)
        return Window(top, left, bottom - top, right - left)


def synthesize(
    sharp: NDArray[np.uint8], settings: BlurSettings, seed: int, index: int, window: Window | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Blur one photograph.

    Args:
        sharp: uint8 RGB [H, W, 3].
        settings: the distribution that the blur is drawn from.
        seed: at least 0; with ``index`` it decides everything that is drawn.
        index: at least 0.
        window: the part to render; what moves into it from outside is the photograph's own content. Beyond the photograph's
            border its mirror image is seen. Default: the whole photograph.

    Returns:
        (lq, gt), uint8 RGB of the window's size. ``gt`` has no noise and, outside the moving object, equals ``sharp``.

    Raises:
        ValueError: ``sharp`` is no uint8 RGB image, or the window leaves it.
    """
    check_rgb(sharp)
    window = window or Window(0, 0, *sharp.shape[:2])
    if window.grown(0, sharp) != window:
        raise ValueError(f"{window} leaves the image of {sharp.shape[0]}x{sharp.shape[1]}")
    for_motion, for_object, for_noise = _streams(seed, index)
    motion = _draw_motion(for_motion, settings, window)
    thing = _draw_foreground(for_object, settings, window, sharp) if for_object.random() < settings.foreground else None
    with one_thread():
        blurred, middle = _expose(sharp, settings.gamma, window, motion, thing)
        noisy = add_noise(for_noise, blurred, for_noise.uniform(*settings.read_noise), for_noise.uniform(*settings.shot_noise))
        return to_pixels(noisy, settings.gamma), to_pixels(middle, settings.gamma)


def _streams(seed: int, index: int) -> list[np.random.Generator]:
    """Independent generators for motion, object and noise, so that one never shifts another's draws."""
    return [np.random.Generator(np.random.Philox(s)) for s in np.random.SeedSequence([seed, index]).spawn(3)]


def _draw_motion(rng: np.random.Generator, settings: BlurSettings, window: Window) -> Motion:
    length, rotation, tremor = (rng.uniform(*r) for r in (settings.length, settings.rotation, settings.tremor))
    x, y = rng.uniform(-_CENTRE_SPREAD, _CENTRE_SPREAD, 2)
    centre = window.left + window.width / 2 + x, window.top + window.height / 2 + y
    return draw_motion(rng, settings.subframes, centre, length=length, rotation=rotation, tremor=tremor)


def _draw_foreground(rng: np.random.Generator, settings: BlurSettings, window: Window, sharp: NDArray[np.uint8]) -> Foreground:
    centre = window.left + rng.uniform(0, window.width), window.top + rng.uniform(0, window.height)
    radius = rng.uniform(*settings.foreground_radius) * min(window.height, window.width)
    mirrored = to_linear(np.ascontiguousarray(sharp[:, ::-1]), settings.gamma)
    return draw_foreground(rng, mirrored, centre, radius, rng.uniform(*settings.foreground_speed))


def _expose(
    sharp: NDArray[np.uint8], gamma: Gamma, window: Window, motion: Motion, thing: Foreground | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean of the sub-frames and the middle one: float32 [height, width, 3], linear light."""
    corners = np.array([[x, y] for x in (window.left, window.left + window.width) for y in (window.top, window.top + window.height)])
    region = window.grown(math.ceil(motion.reach(corners.astype(np.float64))) + 1, sharp)
    light = to_linear(np.ascontiguousarray(region.cut(sharp)), gamma)
    box = _box(thing, motion, window) if thing else None
    total = np.zeros((window.height, window.width, 3), np.float32)
    middle: NDArray[np.float32] = total
    for i in range(len(motion)):
        seen = _shifted(motion.matrix(i), window, (region.left, region.top))
        frame = warp(light, seen, window.height, window.width)
        if thing and box:
            paste(frame, thing.patch, _shifted(thing.matrix(motion, i), window), box)
        total += frame
        middle = frame if i == len(motion) // 2 else middle
    return total / np.float32(len(motion)), middle


def _shifted(matrix: NDArray[np.float64], window: Window, origin: tuple[int, int] = (0, 0)) -> NDArray[np.float64]:
    """``matrix`` for pixels counted from the window's corner, giving places counted from ``origin`` (x, y)."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ [window.left, window.top] - np.array(origin)
    return moved


def _box(thing: Foreground, motion: Motion, window: Window) -> tuple[slice, slice] | None:
    """Rows and columns of the window that the object touches during the exposure; None when it stays outside."""
    (x, y), (h, w), reach = thing.origin, thing.patch.shape[:2], thing.reach(motion)
    top, bottom = max(0, y - window.top - reach), min(window.height, y - window.top + h + reach)
    left, right = max(0, x - window.left - reach), min(window.width, x - window.left + w + reach)
    return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None
