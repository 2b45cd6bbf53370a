"""Sharp photographs of the user's own, blurred on the fly (``data.synthesis``).

All images in the folder and its subfolders are used. Every pair follows from (seed, index): the photographs in turn, which part of
it, which blur. A photograph is a scene, whatever its name.

``split`` divides the photographs without a list: one belongs to ``test`` when the first 8 hex digits of the SHA-256 of its name
(without folder and suffix) are less than ``test_share`` of their range, else to ``train``; adding photographs moves none.

YAML: ``{source: sharp, path: my/photos, split: train}``, with the options of ``SharpConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.digests import file_digests, value_digest
from data.filepairs import Finding, checked_reader
from data.images import image_size, list_images, one_thread, read_image
from data.synthesis import SYNTHESIS_VERSION, BlurSettings, synthesize
from data.windows import MARGIN, shrunk, texture_integral, textured_window
from pipeline.contract import Pair
from pipeline.errors import UsageError

_VERSION = 1
"""Part of the digest: raise it when the choice of photographs or windows, here or in ``data.windows``, changes."""

_SALT = 4  # keeps the draws apart from those of ``samples`` with the same seed
_SMALLEST = 48  # pixels: shortest side of a window

_Shrink = Annotated[float, Field(ge=1, le=16)]


class SharpConfig(BaseModel):
    """Options of ``source: sharp``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="folder of sharp images, subfolders included; relative to the pipeline file")
    split: Literal["train", "test"] | None = Field(default=None, description="use this part of the photographs, by name; default all")
    test_share: float = Field(default=0.1, gt=0, lt=1, description="share of the photographs that belong to the part 'test'")
    count: int | None = Field(default=None, ge=1, le=1_000_000, description="number of pairs; the photographs take turns")
    per_image: int = Field(default=1, ge=1, le=10_000, description="pairs of each photograph, where 'count' does not say their number")
    size: int = Field(default=512, ge=_SMALLEST, le=4096, description="largest side of an image in pixels")
    shrinks: tuple[_Shrink, ...] = Field(
        default=(1.0,),
        min_length=1,
        description="factors to scale a photograph down by, of which each pair draws one; 2 sharpens a soft one",
    )
    seed: int | None = Field(default=None, ge=0, description="draws the pairs independently of the pipeline's seed")
    blur: BlurSettings = Field(default=BlurSettings(), description="strength of the blur")

    @model_validator(mode="after")
    def _one_number(self) -> Self:
        if self.count is not None and "per_image" in self.model_fields_set:
            raise ValueError("count and per_image both say how many pairs; keep one of them")
        return self


class _Photo(NamedTuple):
    key: str  # path below the folder, without suffix
    path: Path


class SharpSource:
    """Synthesized pairs of a folder's photographs; a ``pipeline.contract.PairSource``. Pairs are made when they are asked for."""

    def __init__(self, config: SharpConfig, photos: Sequence[_Photo], seed: int) -> None:
        self.config, self._photos = config, tuple(photos)
        self.seed = seed if config.seed is None else config.seed
        self._count = config.count or config.per_image * len(photos)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self._count:
            raise IndexError(f"pair {index} of {self._count}")
        which = index % len(self._photos)
        photo, shrinks = self._photos[which], self.config.shrinks
        streams = np.random.SeedSequence([self.seed, _SALT]).generate_state(2, np.uint64)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([int(streams[0]), index])))
        with one_thread():
            sharp = shrunk(read_image(photo.path), shrinks[int(rng.integers(len(shrinks)))])
            window = textured_window(rng, texture_integral(sharp), self.config.size)
        lq, gt = synthesize(sharp, self.config.blur, int(streams[1]), index, window)
        return Pair(lq, gt, f"{index:06d}_{photo.key.replace('/', '__')}", self._scene_names[which])

    def digest(self) -> str:
        """64 hex digits over the settings, the seed, the photographs, and the versions of the code that makes the pairs."""
        import cv2

        return value_digest(
            {
                "versions": [_VERSION, SYNTHESIS_VERSION, np.__version__, cv2.__version__],
                "pairs": [self.seed, self._count, self.config.size, *self.config.shrinks],
                "blur": self.config.blur.model_dump(mode="json"),
                "photos": [[photo.key, digest] for photo, digest in zip(self._photos, self._digests, strict=True)],
            }
        )

    def scenes(self) -> Mapping[str, str]:
        """Photograph, named after its path and its digest's first digits -> digest of its file."""
        return dict(zip(self._scene_names[: self._count], self._digests, strict=False))

    @cached_property
    def _digests(self) -> list[str]:
        return file_digests([photo.path for photo in self._photos])

    @cached_property
    def _scene_names(self) -> list[str]:
        return [f"{photo.key}@{digest[:12]}" for photo, digest in zip(self._photos, self._digests, strict=True)]


def in_test(name: str, share: float) -> bool:
    """Whether the photograph of this name, without folder and suffix, belongs to the part 'test'."""
    return int(sha256(name.encode()).hexdigest()[:8], 16) < share * 16**8


def _build(config: SharpConfig, base: Path, seed: int) -> tuple[SharpSource | None, list[Finding]]:
    folder = base / config.path.expanduser()
    images = list_images(folder, recursive=True)
    if config.split is not None:
        images = [p for p in images if in_test(p.stem, config.test_share) == (config.split == "test")]
    if not images:
        hint = "change 'test_share', add photographs, or leave 'split' out"
        raise UsageError(str(folder), f"none of its images belongs to the part '{config.split}'", hint)
    photos, findings = [], []
    for path in images:
        try:
            _require_large(path, config)
            photos.append(_Photo(path.relative_to(folder).with_suffix("").as_posix(), path))
        except UsageError as e:
            findings.append(Finding(e))
    return (SharpSource(config, photos, seed) if photos else None), findings


def _require_large(path: Path, config: SharpConfig) -> None:
    h, w = image_size(path)
    needed = int((_SMALLEST + 2 * MARGIN + 1) * max(config.shrinks))
    if min(h, w) < needed:
        what = f"is {w}x{h} pixels; the shorter side must have at least {needed}"
        raise UsageError(str(path), what, "remove it, or scale it down less ('shrinks')")


READER = checked_reader(SharpConfig, _build)
