"""Camera shake: where the camera looks at each sub-frame of one exposure.

The translation follows Boracchi & Foi, "Modeling the Performance of Image Restoration from Motion Blur" (IEEE TIP 2012), in the
form that DeblurGAN (Kupyn et al., CVPR 2018) made common: a point of constant speed whose direction is disturbed by noise, drawn
back to its start by inertia, and now and then turned round by a jerk. A rotation of the same kind is added, so that the blur varies
over the image.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STEPS = 8  # steps of the walk between two sub-frames
_INERTIA = 0.7
_JERK_PROBABILITY = 0.2  # over the whole exposure


@dataclass(frozen=True)
class Motion:
    """The camera's motion during one exposure, relative to its middle.

    shift   float64 [N, 2]: translation (x, y) in pixels at each of N sub-frames; row N // 2 is zero
    angle   float64 [N]: rotation in radians; element N // 2 is zero
    centre  (x, y) of the rotation in pixels of the image
    """

    shift: NDArray[np.float64]
    angle: NDArray[np.float64]
    centre: tuple[float, float]

    def __len__(self) -> int:
        return len(self.angle)

    def matrix(self, frame: int) -> NDArray[np.float64]:
        """Float64 [2, 3]: maps a pixel (x, y) of sub-frame ``frame`` to the place in the sharp image that it sees."""
        cos, sin = math.cos(self.angle[frame]), math.sin(self.angle[frame])
        turn = np.array([[cos, -sin], [sin, cos]])
        centre = np.array(self.centre)
        return np.column_stack([turn, centre - turn @ centre + self.shift[frame]])

    def reach(self, corners: NDArray[np.float64]) -> float:
        """Largest distance in pixels that any of ``corners`` (float64 [K, 2], x and y) is seen to move from the middle."""
        seen = [corners @ self.matrix(i)[:, :2].T + self.matrix(i)[:, 2] for i in range(len(self))]
        return float(max(np.abs(s - corners).max() for s in seen))


def draw_motion(
    rng: np.random.Generator, frames: int, centre: tuple[float, float], *, length: float, rotation: float, tremor: float
) -> Motion:
    """Draw one exposure's camera motion.

    Args:
        rng: the source of randomness; always the same number of draws for the same ``frames``.
        frames: number of sub-frames, odd.
        centre: (x, y) of the rotation in pixels of the image.
        length: length of the path in pixels.
        rotation: range of the rotation in degrees, from its lowest to its highest angle.
        tremor: how much the path bends: standard deviation of its direction at the end, in radians.
    """
    steps = _STEPS * (frames - 1)
    shift = _walk(rng, steps, tremor)[::_STEPS] * length
    angle = _sway(rng, steps, tremor)[::_STEPS] * math.radians(rotation)
    middle = frames // 2
    return Motion(shift - shift[middle], angle - angle[middle], centre)


def _walk(rng: np.random.Generator, steps: int, tremor: float) -> NDArray[np.float64]:
    """A smooth random path of length 1: float64 [steps + 1, 2]."""
    direction = cmath.exp(2j * math.pi * rng.random())
    noise = rng.standard_normal((steps, 2)) @ np.array([1, 1j]) * (tremor / math.sqrt(steps))
    jerks, turns = rng.random(steps) < _JERK_PROBABILITY / steps, rng.random(steps) - 0.5
    path = np.zeros(steps + 1, np.complex128)
    for i in range(steps):
        if jerks[i]:
            direction *= cmath.exp(1j * (math.pi + turns[i]))
        direction += noise[i] - _INERTIA * path[i] / steps
        direction /= abs(direction)
        path[i + 1] = path[i] + direction / steps
    return np.column_stack([path.real, path.imag])


def _sway(rng: np.random.Generator, steps: int, tremor: float) -> NDArray[np.float64]:
    """A smooth random angle whose range is 1: float64 [steps + 1]."""
    rate = rng.standard_normal() + np.cumsum(rng.standard_normal(steps)) * (tremor / math.sqrt(steps))
    angle = np.concatenate([[0.0], np.cumsum(rate)])
    return np.asarray(angle / np.ptp(angle), np.float64)
