"""Images on disk: reading, writing and listing, with errors that name the file and the next step."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""File names that are taken for images (case does not matter)."""

_ORIENTATION = 0x0112  # EXIF tag


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as uint8 RGB [H, W, 3].

    Grey images are repeated over the channels, alpha is dropped, 16 bit becomes 8 bit, and an EXIF orientation is applied.

    Raises:
        UsageError: the file is missing, cannot be opened, or is not a complete image.
    """
    import cv2

    image = cv2.imdecode(np.frombuffer(_read_bytes(path), np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise _not_an_image(path)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 RGB [H, W, 3] in the format that the suffix names; folders on the way are made.

    Raises:
        UsageError: unknown suffix, or the file cannot be written.
        ValueError: the array is no uint8 RGB image.
    """
    import cv2

    check_rgb(image)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(str(path), f"unknown image format '{path.suffix}'", f"use one of {' '.join(IMAGE_SUFFIXES)}")
    _, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except OSError as e:
        raise UsageError(str(path), f"cannot be written ({e.strerror})", "check the folder, its permissions and the free space") from e


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels as ``read_image`` would give them, from the file's header alone.

    Raises:
        UsageError: the file is missing, cannot be opened, is empty or is not an image; a PNG also when it is cut short.
    """
    from PIL import Image

    try:
        with path.open("rb") as file, Image.open(file) as image:
            orientation = _png_orientation(file) if image.format == "PNG" else image.getexif().get(_ORIENTATION, 1)
            return (image.width, image.height) if orientation >= 5 else (image.height, image.width)  # 5 to 8 swap the sides
    except FileNotFoundError as e:
        raise _missing(path) from e
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:  # what Pillow raises on a damaged header
        if getattr(e, "errno", None):
            raise _closed(path, e) from e
        raise (_not_an_image(path) if path.stat().st_size else _empty(path)) from e


def list_images(folder: Path, recursive: bool = False) -> list[Path]:
    """The images in a folder, sorted by name; hidden files are left out.

    Raises:
        UsageError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise UsageError(str(folder), "folder does not exist", "check the path; relative paths start at the pipeline file's folder")
    entries = folder.rglob("*") if recursive else folder.iterdir()
    found = sorted(p for p in entries if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file())
    if not found:
        raise UsageError(str(folder), "holds no image", f"put images there ({' '.join(IMAGE_SUFFIXES)})")
    return found


def check_rgb(image: NDArray[np.uint8]) -> None:
    """Raise ValueError unless ``image`` is uint8 [H, W, 3] and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected a uint8 RGB image [H, W, 3], got {image.dtype} {list(image.shape)}")


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on the calling thread alone: processes that load data fork, and its thread pool does not survive that."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _png_orientation(file: BinaryIO) -> int:
    """EXIF orientation (1 where there is none) of a PNG, from its chunks' headers: Pillow would decode the picture first."""
    from PIL import Image

    orientation, kind = 1, b""
    file.seek(8)
    while kind != b"IEND":
        header = file.read(8)
        if len(header) < 8:
            raise OSError("cut short")
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            exif = Image.Exif()
            exif.load(file.read(length))
            orientation, length = int(exif.get(_ORIENTATION, 1)), 0
        file.seek(length + 4, 1)
    return orientation


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise _missing(path) from e
    except OSError as e:
        raise _closed(path, e) from e
    if not content:
        raise _empty(path)
    return content


def _missing(path: Path) -> UsageError:
    return UsageError(str(path), "file does not exist", "check the path")


def _closed(path: Path, error: Exception) -> UsageError:
    return UsageError(str(path), f"cannot be opened ({getattr(error, 'strerror', error)})", "check the path and its permissions")


def _empty(path: Path) -> UsageError:
    return UsageError(str(path), "the file is empty", "remove it or copy it again")


def _not_an_image(path: Path) -> UsageError:
    return UsageError(str(path), "not a readable image", "remove it or copy it again; readable are PNG, JPEG, BMP, TIFF and WebP")
