"""Pictures as people have them: grey, 16 bit, with alpha. A restorer works on uint8 RGB; what it does is carried back to the original.

Grey stays grey, alpha stays as it is, and a 16-bit picture keeps its gradations: what the restorer changed at 8 bits is added to the
16-bit values. Metadata and colour profiles are not kept; an EXIF orientation is applied to the pixels.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images import IMAGE_SUFFIXES
from eval.quality import Image
from pipeline.errors import UsageError

_LEVELS = 257  # 65535 / 255
_OPTIONS = {".jpg": ("IMWRITE_JPEG_QUALITY", 95), ".jpeg": ("IMWRITE_JPEG_QUALITY", 95), ".webp": ("IMWRITE_WEBP_QUALITY", 101)}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture: uint8 or uint16, [H, W] grey, [H, W, 3] RGB or [H, W, 4] RGBA."""

    pixels: NDArray[Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def restored(self, restore: Callable[[Image], Image]) -> Picture:
        """The picture with its colours restored, of the same layout and depth."""
        rgb = self._rgb()
        after = restore(rgb)
        if self.pixels.dtype == np.uint16:
            before16 = self.pixels[..., None] if self.pixels.ndim == 2 else self.pixels[..., :3]
            change = (after.astype(np.int32) - rgb) * _LEVELS
            colours = np.clip(before16 + change, 0, 65535).astype(np.uint16)
        else:
            colours = after
        return Picture(self._in_layout(colours))

    def _rgb(self) -> Image:
        pixels = self.pixels if self.pixels.ndim == 3 else np.repeat(self.pixels[..., None], 3, axis=2)
        rgb = pixels[..., :3]
        if rgb.dtype == np.uint16:
            rgb = np.rint(rgb / _LEVELS)
        return np.ascontiguousarray(rgb, dtype=np.uint8)

    def _in_layout(self, colours: NDArray[Any]) -> NDArray[Any]:
        if self.pixels.ndim == 2:
            import cv2

            return np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))
        return np.concatenate([colours, self.pixels[..., 3:]], axis=2)


def read_picture(path: Path) -> Picture:
    """Read a picture with its own layout and depth.

    Raises:
        UsageError: missing, not a complete picture, or of floating-point values.

    """
    import cv2

    try:
        content = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as e:
        raise UsageError(str(path), f"cannot be opened ({e.strerror})", "check the path and its permissions") from None
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
    if pixels is not None and (pixels.ndim == 2 or pixels.shape[2] != 4):
        pixels = cv2.imdecode(content, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)  # as before, with the EXIF orientation applied
    if pixels is None:
        raise UsageError(str(path), "not a readable image", "remove it or copy it again; readable are PNG, JPEG, BMP, TIFF and WebP")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UsageError(str(path), f"holds {pixels.dtype} values", "convert it to 8 or 16 bits")
    return Picture(_swapped(pixels))


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture in the format of the suffix; the file appears whole or not at all. Folders on the way are made.

    Raises:
        UsageError: unknown suffix, a format that cannot hold the picture, or a folder that cannot be written.

    """
    import cv2

    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UsageError(str(path), f"unknown image format '{path.suffix}'", f"use one of {' '.join(IMAGE_SUFFIXES)}")
    option, value = _OPTIONS.get(suffix, ("", 0))
    try:
        ok, content = cv2.imencode(suffix, _swapped(picture.pixels), [getattr(cv2, option), value] if option else [])
    except cv2.error as e:
        raise UsageError(str(path), f"this picture cannot be written as {suffix} ({e.err})", "use .png") from None
    if not ok:
        raise UsageError(str(path), f"this picture cannot be written as {suffix}", "use .png")
    with appearing(path) as temporary:
        temporary.write_bytes(content.tobytes())


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name to write to; at the end the file there becomes ``path``, or is removed when something was raised. Makes the folder.

    Raises:
        UsageError: it cannot be written.

    """
    temporary = path.with_name(f".{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as e:
        raise UsageError(str(path), f"cannot be written ({e.strerror})", "check the folder, its permissions and the free space") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _swapped(pixels: NDArray[Any]) -> NDArray[Any]:
    """RGB(A) <-> BGR(A); grey stays."""
    if pixels.ndim == 2:
        return pixels
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return np.ascontiguousarray(pixels[..., order])
