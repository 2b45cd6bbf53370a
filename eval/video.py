"""Videos, frame by frame. The sound is not carried over: OpenCV neither reads nor writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval.pictures import appearing
from eval.quality import Image
from pipeline.errors import UsageError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm")
"""File names that are taken for videos (case does not matter)."""


def restore_video(
    source: Path, out: Path, restore: Callable[[Image], Image], on_frame: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Restore a video into an MP4 of the same frame rate and size (an odd last row or column goes: the format has none).

    The file appears whole or not at all.

    Args:
        source: a video that OpenCV reads.
        out: the ``.mp4`` to write.
        restore: uint8 RGB [H, W, 3] -> the same.
        on_frame: told after every frame: frames done, and their total as the file states it (0 when it does not).

    Returns:
        Number of frames.

    Raises:
        UsageError: not a readable video, or it cannot be written.

    """
    import cv2

    reader = cv2.VideoCapture(str(source))
    try:
        if not reader.isOpened():
            raise UsageError(str(source), "not a readable video", "convert it to an MP4 with H.264")
        total = max(0, int(reader.get(cv2.CAP_PROP_FRAME_COUNT)))
        restored = _counted(map(restore, _frames(reader)), total, on_frame)
        with appearing(out) as temporary:
            count = _write(temporary, restored, reader.get(cv2.CAP_PROP_FPS) or 25.0)
            if count == 0:
                raise UsageError(str(source), "holds no readable frame", "convert it to an MP4 with H.264")
        return count
    finally:
        reader.release()


def _frames(reader: Any) -> Iterator[Image]:
    while True:
        ok, frame = reader.read()
        if not ok:
            return
        yield np.ascontiguousarray(frame[..., ::-1])


def _counted(frames: Iterator[Image], total: int, on_frame: Callable[[int, int], None]) -> Iterator[Image]:
    for done, frame in enumerate(frames, 1):
        yield frame
        on_frame(done, total)


def _write(path: Path, frames: Iterator[Image], fps: float) -> int:
    import cv2

    writer, count = None, 0
    try:
        for frame in frames:
            if writer is None:
                size = frame.shape[1], frame.shape[0]
                writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
                if not writer.isOpened():
                    raise UsageError(
                        str(path.parent), "a video cannot be written there", "check the folder, its permissions and the free space"
                    )
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
            count += 1
    finally:
        if writer is not None:
            writer.release()
    return count
