"""Footage: sharp frames in their order, as a folder of numbered images or as a video file, and what a camera would make of them.

A camera with a longer exposure would have seen the mean of several frames' light; that is how GoPro's blurred images were made
(Nah, Kim & Lee, CVPR 2017, section 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data.camera import Gamma, to_linear, to_pixels
from data.digests import file_digests
from data.filepairs import Finding
from data.images import IMAGE_SUFFIXES, image_size, list_images, one_thread, read_image
from data.video import VIDEO_SUFFIXES, Video, grey_step, is_video
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FrameFolder:
    """The frames of a folder of images, in the order of the last number in their names.

    Args:
        folder: holds the images, without its subfolders.

    Raises:
        UsageError: no image, a name without a number, numbers that repeat or leave gaps, an unreadable header, or images of
            different size.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.files = tuple(_in_order(folder, list_images(folder)))
        with ThreadPoolExecutor() as pool:
            sizes = list(pool.map(image_size, self.files))
        self.size = sizes[0]
        for file, size in zip(self.files, sizes, strict=True):
            if size != self.size:
                what = f"is {size[1]}x{size[0]} but {self.files[0].name} is {self.size[1]}x{self.size[0]}"
                raise UsageError(str(file), what, "all frames of a sequence must be of equal size; give each part a folder of its own")

    def __len__(self) -> int:
        return len(self.files)

    def read(self, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Frames ``start`` .. ``stop - 1``: uint8 RGB [H, W, 3] each."""
        return [read_image(file) for file in self.files[start:stop]]

    def digests(self) -> list[str]:
        """SHA-256 of each file."""
        return file_digests(self.files)

    def steps(self) -> tuple[float, ...]:
        """Mean absolute difference of each frame from the one before, in 8-bit grey levels; decodes them all, once."""
        return self._steps

    @cached_property
    def _steps(self) -> tuple[float, ...]:
        return tuple(grey_step(a, b) for a, b in pairwise(self._greys()))

    def _greys(self) -> Iterator[NDArray[np.uint8]]:
        import cv2

        for i in range(len(self)):
            with one_thread():
                grey = np.asarray(cv2.cvtColor(self.read(i, i + 1)[0], cv2.COLOR_RGB2GRAY), np.uint8)
            yield grey


class Footage(NamedTuple):
    """A sequence of frames and its name in the data set."""

    name: str
    frames: FrameFolder | Video


def find_footage(path: Path) -> tuple[list[Footage], list[Finding]]:
    """All footage at ``path``, sorted by name, and what is wrong with the rest.

    Args:
        path: a video file; or a folder, in which every folder with images is a sequence and every video is one.

    Raises:
        UsageError: there is nothing at ``path``, or no footage.
    """
    if is_video(path) and not path.is_dir():
        places = [(path.stem, path)]
    elif path.is_dir():
        places = list(_places(path))
    else:
        what, hint = ("is no video", f"readable are {' '.join(VIDEO_SUFFIXES)}") if path.exists() else ("does not exist", "check the path")
        raise UsageError(str(path), what, hint)
    if not places:
        hint = f"put numbered images ({' '.join(IMAGE_SUFFIXES)}) or videos ({' '.join(VIDEO_SUFFIXES)}) there, or in subfolders"
        raise UsageError(str(path), "holds no frames and no video", hint)
    found: dict[str, Footage] = {}
    findings = []
    for name, place in sorted(places):
        try:
            if name in found:
                raise UsageError(str(place), f"has the same name as {found[name].frames.path}", "give each sequence a name of its own")
            found[name] = Footage(name, Video(place) if place.is_file() else FrameFolder(place))
        except UsageError as e:
            findings.append(Finding(e))
    return list(found.values()), findings


def expose(frames: Sequence[NDArray[np.uint8]], gamma: Gamma) -> NDArray[np.uint8]:
    """One exposure over all the time that the frames show: their mean in linear light, encoded again.

    Args:
        frames: uint8 RGB [H, W, 3] of equal size.
        gamma: the camera's response curve; 1 averages the pixel values as they are.

    Returns:
        uint8 RGB [H, W, 3].
    """
    with one_thread():
        total = np.zeros(frames[0].shape, np.float32)
        for frame in frames:
            total += to_linear(frame, gamma)
        return to_pixels(total / np.float32(len(frames)), gamma)


def _places(root: Path) -> Iterator[tuple[str, Path]]:
    """Name and place of each sequence of images and each video below ``root``."""
    for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
        inside = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
        name = folder.relative_to(root).as_posix() if folder != root else ""
        if any(p.suffix.lower() in IMAGE_SUFFIXES for p in inside):
            yield name or root.resolve().name, folder
        yield from (((f"{name}/" if name else "") + p.stem, p) for p in inside if is_video(p))


def _in_order(folder: Path, images: Sequence[Path]) -> list[Path]:
    numbers = {image: re.findall(r"\d+", image.stem) for image in images}
    for image, digits in numbers.items():
        if not digits:
            raise UsageError(str(image), "has no number in its name", "number the frames in their order: 000001.png, 000002.png, ...")
    ordered = sorted(images, key=lambda image: int(numbers[image][-1]))
    jumps = [(a, b, int(numbers[b][-1]) - int(numbers[a][-1])) for a, b in pairwise(ordered)]
    usual = min((jump for _, _, jump in jumps), default=1)
    for a, b, jump in jumps:
        if jump != usual or jump == 0:
            what = f"frames are missing, or there are too many, between {a.name} and {b.name}"
            raise UsageError(str(folder), what, "number the frames evenly; give each part without gaps a folder of its own")
    return ordered
