"""The embedded default: photographs that scikit-image ships in its wheel, blurred on the fly.

Nothing is downloaded: the files are read from scikit-image's package folder. They are split by scene, and every pair follows from
(seed, index): which photograph, which part of it, which blur (``data.synthesis``).

YAML: ``{source: samples, split: train}``, with the options of ``SamplesConfig``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.digests import file_digest, joint_digest, value_digest
from data.images import read_image
from data.synthesis import SYNTHESIS_VERSION, BlurSettings, synthesize
from data.windows import shrunk, texture_integral, textured_window
from pipeline.contract import Pair, ReaderSpec
from pipeline.errors import ToolchainMissing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VERSION = 1
"""Part of the digest: raise it when the choice of photographs below, or of windows in ``data.windows``, changes."""


class Photo(NamedTuple):
    """A photograph: file in ``skimage/data``, the scene it shows, and factors to scale it down by, of which each pair draws one.

    A photograph scaled down is sharper, pixel by pixel, and shows its content at another size.
    """

    file: str
    scene: str
    shrinks: tuple[float, ...] = (1.0,)


_SCALES = (1.0, 1.5, 2.0)

Split = Literal["train", "calibrate", "test"]

PHOTOS: Mapping[Split, tuple[Photo, ...]] = {
    "train": (
        Photo("motorcycle_left.png", "motorcycle", _SCALES),
        Photo("ihc.png", "ihc", _SCALES),
        Photo("motorcycle_right.png", "motorcycle", _SCALES),
        Photo("rocket.jpg", "rocket", _SCALES),
    ),
    "calibrate": (Photo("chelsea.png", "chelsea"),),
    "test": (Photo("astronaut.png", "astronaut"), Photo("coffee.png", "coffee")),
}
"""Pairs take the photographs in turn. No scene is in two splits; the two views of the motorcycle are one scene."""

_COUNT: Mapping[Split, int] = {"train": 96, "calibrate": 16, "test": 24}
_SIZE: Mapping[Split, int] = {"train": 512, "calibrate": 256, "test": 256}
_SALT: Mapping[Split, int] = {"train": 1, "calibrate": 2, "test": 3}


class SamplesConfig(BaseModel):
    """Options of ``source: samples``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Split = Field(description="which of the three scene-disjoint sets of photographs")
    count: int | None = Field(
        default=None, ge=1, le=100_000, description="number of pairs; default 96 to train, 16 to calibrate, 24 to test"
    )
    size: int | None = Field(
        default=None, ge=64, le=4096, description="largest side of an image in pixels; default 512 to train, 256 to calibrate and to test"
    )
    seed: int | None = Field(default=None, ge=0, description="draws the pairs independently of the pipeline's seed")
    blur: BlurSettings = Field(default=BlurSettings(), description="strength of the blur")


class SamplesSource:
    """Synthesized pairs of one split; a ``pipeline.contract.PairSource``. Pairs are made when they are asked for."""

    def __init__(self, config: SamplesConfig, seed: int) -> None:
        self.config = config
        self.seed = seed if config.seed is None else config.seed
        self._photos = PHOTOS[config.split]
        self._size = config.size or _SIZE[config.split]
        self._count = config.count or _COUNT[config.split]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self._count:
            raise IndexError(f"pair {index} of {self._count}")
        photo = self._photos[index % len(self._photos)]
        streams = np.random.SeedSequence([self.seed, _SALT[self.config.split]]).generate_state(2, np.uint64)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([int(streams[0]), index])))
        sharp, integral = _load(photo.file, photo.shrinks[int(rng.integers(len(photo.shrinks)))])
        window = textured_window(rng, integral, self._size)
        lq, gt = synthesize(sharp, self.config.blur, int(streams[1]), index, window)
        return Pair(lq, gt, f"{index:04d}_{Path(photo.file).stem}", photo.scene)

    def digest(self) -> str:
        """64 hex digits over the settings, the seed, the photographs' bytes, and the versions of the code that makes the pairs."""
        import cv2

        return value_digest(
            {
                "versions": [_VERSION, SYNTHESIS_VERSION, np.__version__, cv2.__version__],
                "split": self.config.split,
                "pairs": [self.seed, self._count, self._size],
                "blur": self.config.blur.model_dump(mode="json"),
                "photos": [[*photo, file_digest(_path(photo.file))] for photo in self._photos],
            }
        )

    def scenes(self) -> Mapping[str, str]:
        """Scene name -> digest of its photographs' files."""
        names = dict.fromkeys(photo.scene for photo in self._photos)
        return {name: joint_digest(file_digest(_path(p.file)) for p in self._photos if p.scene == name) for name in names}


def open_samples(config: SamplesConfig, base: Path, seed: int) -> SamplesSource:
    """Open a split; ``base`` is not used.

    Raises:
        ToolchainMissing: scikit-image, or one of its photographs, is not installed.
    """
    for photo in PHOTOS[config.split]:
        _path(photo.file)
    return SamplesSource(config, seed)


def _path(file: str) -> Path:
    spec = importlib.util.find_spec("skimage")  # finds the folder without importing the package
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], "data", file) if folders else None
    if path is None or not path.is_file():
        raise ToolchainMissing("data source 'samples'", f"scikit-image's photograph {file} is not installed", "pip install scikit-image")
    return path


@cache
def _load(file: str, shrink: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The photograph, uint8 RGB [H, W, 3], and its integral of texture, float64 [H + 1, W + 1]; both read-only."""
    image = shrunk(read_image(_path(file)), shrink)
    integral = texture_integral(image)
    image.flags.writeable = integral.flags.writeable = False
    return image, integral


READER = ReaderSpec(config=SamplesConfig, open=open_samples)
