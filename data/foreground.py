"""A moving object in front of the background: a soft-edged blob with its own velocity.

GoPro's scenes have cars and people that move on their own, so that blur changes sharply at their outlines. The blob's texture is cut
from the mirrored image; colours are premultiplied by the mask, so that averaging blends the outline as a real exposure does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.camera import warp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data.trajectory import Motion

_SOFTNESS = 2.0  # width of the mask's edge in pixels


@dataclass(frozen=True)
class Foreground:
    """An object in the scene.

    patch     float32 [h, w, 4]: premultiplied linear RGB and mask, in [0, 1]
    origin    (x, y) of the patch's first pixel at the middle of the exposure, in whole pixels of the image
    velocity  (x, y) in pixels per exposure, in the scene
    """

    patch: NDArray[np.float32]
    origin: tuple[int, int]
    velocity: tuple[float, float]

    def matrix(self, motion: Motion, frame: int) -> NDArray[np.float64]:
        """Float64 [2, 3]: maps a pixel of the image at sub-frame ``frame`` to the pixel of the patch that it sees."""
        seen = motion.matrix(frame)
        time = frame / (len(motion) - 1) - 0.5
        seen[:, 2] -= np.array(self.origin) + time * np.array(self.velocity)
        return seen

    def reach(self, motion: Motion) -> int:
        """How far in pixels the object's outline moves from its place in the middle of the exposure, rounded up."""
        (x, y), (h, w) = self.origin, self.patch.shape[:2]
        corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]], np.float64)
        return math.ceil(motion.reach(corners) + math.hypot(*self.velocity) / 2) + 1


def draw_foreground(
    rng: np.random.Generator, texture: NDArray[np.float32], centre: tuple[float, float], radius: float, speed: float
) -> Foreground:
    """Draw an object.

    Args:
        rng: the source of randomness.
        texture: float32 [H, W, 3] linear light to cut from.
        centre: (x, y) of the object in pixels of the image.
        radius: mean radius in pixels.
        speed: in pixels per exposure.
    """
    mask = _blob(rng, radius)[: texture.shape[0], : texture.shape[1]]
    h, w = mask.shape
    top, left = rng.integers(texture.shape[0] - h + 1), rng.integers(texture.shape[1] - w + 1)
    cut = texture[top : top + h, left : left + w]
    patch = np.dstack([cut * mask[..., None], mask])
    heading = rng.uniform(0, 2 * math.pi)
    origin = round(centre[0] - w / 2), round(centre[1] - h / 2)
    return Foreground(patch, origin, (speed * math.cos(heading), speed * math.sin(heading)))


def paste(frame: NDArray[np.float32], patch: NDArray[np.float32], matrix: NDArray[np.float64], box: tuple[slice, slice]) -> None:
    """Lay a premultiplied patch over float32 [H, W, 3] ``frame``, in place, within ``box`` (rows, columns).

    ``matrix``: float64 [2, 3], maps a pixel (x, y) of the frame to one of the patch.
    """
    view = frame[box]
    moved = matrix.copy()
    moved[:, 2] += moved[:, :2] @ [box[1].start, box[0].start]
    layer = warp(patch, moved, *view.shape[:2], mirror=False)
    view *= 1 - layer[..., 3:]
    view += layer[..., :3]


def _blob(rng: np.random.Generator, radius: float) -> NDArray[np.float32]:
    """Mask of a random smooth outline: float32 [n, n] in [0, 1], zero at the border."""
    outline = rng.uniform(-1, 1, 3) * np.array([0.2, 0.1, 0.06])
    phase = rng.uniform(0, 2 * math.pi, 3)
    half = math.ceil(radius * 1.36 + _SOFTNESS)
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    waves = np.cos(np.arctan2(y, x)[..., None] * np.array([2, 3, 4]) + phase)
    edge = radius * (1 + waves @ outline)
    return np.asarray(np.clip((edge - np.hypot(x, y)) / _SOFTNESS + 0.5, 0, 1), np.float32)
