"""Augmentation of training crops: what is drawn for both images of a pair, and what for the blurred one alone.

Everything is drawn from the seeds that it is given. Each kind but the turns has a stream of its own: switching one on changes no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from data.bounds import ordered

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


_Factor = Annotated[float, Field(ge=0.125, le=8, allow_inf_nan=False)]
_Sigma = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Strength = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Jitter(BaseModel):
    """Colour changes that both images of a pair share. Strength s: a factor is drawn uniformly from 1 - s to 1 + s."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    brightness: _Strength = Field(default=0.0, description="strength of a common factor on all values")
    contrast: _Strength = Field(default=0.0, description="strength of a factor on the distance to the sharp crop's mean grey")
    saturation: _Strength = Field(default=0.0, description="strength of a factor on the distance of a pixel to its own grey")


class Augment(BaseModel):
    """How a training crop is changed at random. The defaults turn by multiples of 90 degrees and mirror, in all eight ways."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hflip: bool = Field(default=True, description="mirror left and right, every second crop")
    vflip: bool = Field(default=True, description="mirror top and bottom, every second crop")
    rot90: bool = Field(default=True, description="turn by 0, 90, 180 or 270 degrees")
    jitter: Jitter = Field(default=Jitter(), description="brightness, contrast and saturation, of both images alike")
    channel_shuffle: bool = Field(default=False, description="red, green and blue in random order, in both images alike")
    scale: Annotated[tuple[_Factor, _Factor], AfterValidator(ordered)] | None = Field(
        default=None, description="resize both images by a factor between these two before cutting; 0.5 also halves the blur"
    )
    noise: Annotated[tuple[_Sigma, _Sigma], AfterValidator(ordered)] | None = Field(
        default=None, description="Gaussian noise on the blurred crop alone: [least, most] standard deviation, full scale = 1"
    )

    def turn(self, rng: np.random.Generator) -> tuple[int, bool]:
        """Quarter turns (0 .. 3), made after mirroring left and right (bool). Always two draws, or none if all three are off."""
        if not (self.hflip or self.vflip or self.rot90):
            return 0, False
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        if self.rot90:
            return turns, mirror and (self.hflip or self.vflip)
        left_right, upside_down = mirror and self.hflip, turns >= 2 and self.vflip
        return 2 * upside_down, left_right != upside_down  # mirroring both ways is half a turn

    def window(self, crop: int, shorter: int, seeds: np.random.SeedSequence) -> int:
        """Side in pixels of the square to cut, which is then resized to ``crop``; at most ``shorter``, the image's shorter side."""
        if self.scale is None:
            return crop
        return max(1, min(shorter, round(crop / _stream(seeds, 0).uniform(*self.scale))))

    def recolour(
        self, lq: NDArray[np.float32], gt: NDArray[np.float32], seeds: np.random.SeedSequence
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both crops, float32 [3, H, W] in [0, 1], with channels, colours and noise changed; clipped to [0, 1]."""
        if self.channel_shuffle:
            order = _stream(seeds, 1).permutation(3)
            lq, gt = np.ascontiguousarray(lq[order]), np.ascontiguousarray(gt[order])
        if self.jitter != Jitter():
            factors = _stream(seeds, 2).uniform(-1, 1, 3).astype(np.float32)
            grey = _grey(gt).mean()
            lq, gt = _jittered(lq, self.jitter, factors, grey), _jittered(gt, self.jitter, factors, grey)
        if self.noise is not None:
            rng = _stream(seeds, 3)
            noise = np.float32(rng.uniform(*self.noise)) * rng.standard_normal(lq.shape, np.float32)
            lq = np.clip(lq + noise, 0, 1)
        return lq, gt


def resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A square uint8 RGB image at ``side`` x ``side`` pixels: bicubic, smoothed first where it shrinks; itself if it is that size."""
    from PIL import Image

    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((side, side), Image.Resampling.BICUBIC), np.uint8)


def _jittered(image: NDArray[np.float32], jitter: Jitter, factors: NDArray[np.float32], grey: np.float32) -> NDArray[np.float32]:
    """Saturation, contrast and brightness of float32 [3, H, W], in this order; ``grey`` is the value that contrast leaves alone."""
    strengths = np.array([jitter.saturation, jitter.contrast, jitter.brightness], np.float32)
    saturation, contrast, brightness = 1 + strengths * factors
    own = _grey(image)
    image = own + saturation * (image - own)
    image = grey + contrast * (image - grey)
    return np.asarray(np.clip(brightness * image, 0, 1), np.float32)


def _grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.tensordot(_LUMA, image, 1), np.float32)


def _stream(seeds: np.random.SeedSequence, kind: int) -> np.random.Generator:
    """A generator of its own for each kind, as ``seeds.spawn`` would number them."""
    child = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, kind))
    return np.random.Generator(np.random.Philox(child))
