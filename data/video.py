"""Video files, frame by frame: the same bytes for the same frame number, in whatever order frames are asked for.

A container's own frame count and seek table are estimates. So the whole video is decoded once when it is opened (``index_video``):
that counts the frames and keeps a checksum of each. Later a window of frames is reached by a seek, and every frame's checksum tells
whether the seek arrived where it should; when it did not, decoding starts over at the first frame.

OpenCV's FFmpeg decoder is used. It scales frames of another size to that of the first one, so such a change is not seen here.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.digests import file_digest
from data.images import one_thread
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv")
"""File names that are taken for videos (case does not matter)."""

_NEAR = 48  # frames: so far ahead, decoding on is cheaper than a seek, which goes back to the last key frame
_COMPLETE = 0.9  # share of the container's frame count that must be decodable; that count may be an estimate
_abandoned: list[Any] = []  # captures inherited by fork: closing one would wait for threads that only the parent has


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """What decoding a whole video tells.

    size    height and width in pixels
    checks  CRC-32 of each frame's pixels
    steps   mean absolute difference of each frame from the one before, in 8-bit grey levels; one less than frames
    """

    size: tuple[int, int]
    checks: tuple[int, ...]
    steps: tuple[float, ...]


class Video:
    """The frames of a video file. Safe to use from several threads; a copy in another process opens the file anew.

    Raises:
        UsageError: the file is missing, is no video, or its end cannot be decoded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = index_video(path)
        self._capture: Any
        self._kept: dict[int, NDArray[np.uint8]]
        self._next: int
        self._reset()

    def __len__(self) -> int:
        return len(self.index.checks)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.index.size

    def read(self, start: int, stop: int) -> list[NDArray[np.uint8]]:
        """Frames ``start`` .. ``stop - 1``: uint8 RGB [H, W, 3] each.

        Raises:
            UsageError: the file is no longer what it was when it was opened.
        """
        if self._process != os.getpid():
            _abandoned.append(self._capture)
            self._reset()
        with self._lock, one_thread():
            kept = {i: frame for i, frame in self._kept.items() if start <= i < stop}
            missing = [i for i in range(start, stop) if i not in kept]
            if missing:
                kept |= self._decode(missing[0], missing[-1] + 1)
            self._kept = kept
            return [kept[i] for i in range(start, stop)]

    def digests(self) -> list[str]:
        """SHA-256 of the file."""
        return [file_digest(self.path)]

    def steps(self) -> tuple[float, ...]:
        """How much each frame differs from the one before: ``VideoIndex.steps``."""
        return self.index.steps

    def _decode(self, start: int, stop: int) -> dict[int, NDArray[np.uint8]]:
        frames = self._attempt(start, stop)
        if frames is None:
            self._seeks, self._capture = False, None  # not where the seek should have gone: from now on without seeking
            frames = self._attempt(start, stop)
        if frames is None:
            raise UsageError(str(self.path), f"frame {start} has changed since the video was opened", "start again")
        return frames

    def _attempt(self, start: int, stop: int) -> dict[int, NDArray[np.uint8]] | None:
        """Frames by number, or None when what is there is not what the index says."""
        import cv2

        self._go_to(start)
        frames = {}
        for i in range(start, stop):
            there, frame = self._capture.read()
            self._next += 1
            if not there or zlib.crc32(frame) != self.index.checks[i]:
                return None
            frames[i] = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        return frames

    def _go_to(self, frame: int) -> None:
        import cv2

        if self._capture is None or (self._next > frame and not self._seeks):
            self._capture, self._next = _open(self.path), 0
        if self._seeks and not self._next <= frame <= self._next + _NEAR:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
            self._next = frame
        while self._next < frame:
            self._capture.grab()
            self._next += 1

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._capture = None
        self._seeks = True  # whether seeking has been exact so far
        self._next = 0  # number of the frame that the capture gives next
        self._kept = {}  # the last window: the next one often overlaps it

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "index": self.index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def index_video(path: Path) -> VideoIndex:
    """Decode a whole video once; a file that has not changed is decoded once per process.

    Raises:
        UsageError: the file is missing, empty or no video, or less of it can be decoded than its container says it holds.
    """
    try:
        stat = path.stat()
    except OSError as e:
        raise UsageError(str(path), "file does not exist", "check the path") from e
    if stat.st_size == 0:
        raise UsageError(str(path), "the file is empty", "remove it or copy it again")
    return _index(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _index(path: Path, size: int, changed: int) -> VideoIndex:
    import cv2

    with one_thread():
        capture = _open(path)
        said = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        checks: list[int] = []
        greys: list[NDArray[np.uint8]] = []  # the last two
        steps: list[float] = []
        for frame in _frames(capture):
            checks.append(zlib.crc32(frame.data))
            greys = [*greys[-1:], np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)]
            steps += [grey_step(*greys)] if len(greys) == 2 else []
    if len(checks) < _COMPLETE * said or not checks:
        what = f"only {len(checks)} of {said:.0f} frames can be decoded" if checks else "no frame can be decoded"
        raise UsageError(str(path), what, "the file is damaged or cut short; copy it again, or leave it out")
    return VideoIndex(greys[-1].shape[:2], tuple(checks), tuple(steps))


def grey_step(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two grey images, uint8 [H, W], in levels."""
    import cv2

    return float(cv2.norm(before, after, cv2.NORM_L1) / after.size)


def is_video(path: Path) -> bool:
    """Whether the name is that of a video file, and no hidden one."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def _frames(capture: Any) -> Iterator[NDArray[np.uint8]]:
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def _open(path: Path) -> Any:
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's own words on a damaged file would stand among ours
    with _quiet():
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise UsageError(str(path), "not a readable video", "remove it or copy it again; readable is what OpenCV's FFmpeg decodes")
    return capture


@contextmanager
def _quiet() -> Iterator[None]:
    import cv2

    logging = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        logging.setLogLevel(before)
