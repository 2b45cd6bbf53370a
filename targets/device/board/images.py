"""Reading and writing images with what the board has: PPM and PNG always, JPEG and the rest with OpenCV, Pillow or ffmpeg."""

import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
from board.basics import DeviceError, write_atomically

SUFFIXES = (".png", ".ppm", ".pgm", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def read_image(path: Path) -> Any:
    """Pixels of a file as uint8 RGB [H, W, 3]."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DeviceError("{} cannot be read ({})".format(path, e.strerror)) from None
    if data[:2] in (b"P5", b"P6"):
        return decode_pnm(data, path)
    for decode in (_opencv, _pillow):
        found = decode(data)
        if found is not None:
            return found
    if data.startswith(_SIGNATURE):
        return decode_png(data, path)
    return _ffmpeg(path)


def write_image(path: Path, image: Any) -> None:
    """Write uint8 RGB [H, W, 3] in the form that the name asks for: .ppm and .png always, the rest with OpenCV or Pillow."""
    suffix = path.suffix.lower()
    if suffix == ".ppm":
        data = b"P6\n%d %d\n255\n" % (image.shape[1], image.shape[0]) + np.ascontiguousarray(image).tobytes()
    elif suffix == ".png":
        data = encode_png(image)
    else:
        data = _encode_other(image, suffix)
    write_atomically(path, data)


def decoder() -> str:
    """What reads PNG here: "cv2", "PIL", or "own" (slow)."""
    for name in ("cv2", "PIL"):
        try:
            __import__(name)
        except ImportError:
            continue
        return name
    return "own"


def decode_pnm(data: bytes, path: Path) -> Any:
    """Binary PGM or PPM of 8 or 16 bits as uint8 RGB [H, W, 3]."""
    numbers: List[int] = []
    at = 2
    try:
        while len(numbers) < 3:
            while data[at : at + 1].isspace():
                at += 1
            end = at
            if data[at : at + 1] == b"#":
                at = data.index(b"\n", at)
                continue
            while data[end : end + 1].isdigit():
                end += 1
            numbers.append(int(data[at:end]))
            at = end
        width, height, most = numbers
        channels = 3 if data[1:2] == b"6" else 1
        values = np.frombuffer(data, ">u2" if most > 255 else np.uint8, width * height * channels, at + 1)
    except ValueError:
        raise DeviceError("{} is damaged: it is no whole PGM or PPM image".format(path)) from None
    if most != 255:
        values = np.rint(values.astype(np.float32) * (255.0 / most)).astype(np.uint8)
    image = values.reshape(height, width, channels)
    return np.ascontiguousarray(np.broadcast_to(image, (height, width, 3)))


def decode_png(data: bytes, path: Path) -> Any:
    """PNG of 8 or 16 bits without interlacing as uint8 RGB [H, W, 3]; an alpha channel is dropped."""
    try:
        header, palette, packed = _chunks(data)
        width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        if bits not in (8, 16) or interlaced or colour not in _CHANNELS:
            raise DeviceError("{} has a form that needs OpenCV or Pillow: apt-get install python3-opencv".format(path))
        pixel = _CHANNELS[colour] * bits // 8
        lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * pixel)
    except (struct.error, zlib.error, ValueError, KeyError):
        raise DeviceError("{} is damaged: it is no whole PNG image".format(path)) from None
    values = unfilter(lines, pixel).reshape(height, width, _CHANNELS[colour], bits // 8)[..., 0]
    if colour == 3:
        return np.frombuffer(palette, np.uint8).reshape(-1, 3)[values[..., 0]]
    colours = values[..., :3] if values.shape[2] > 2 else np.repeat(values[..., :1], 3, 2)
    return np.ascontiguousarray(colours)


def _chunks(data: bytes) -> Tuple[bytes, bytes, bytes]:
    found = {b"IHDR": b"", b"PLTE": b"", b"IDAT": b""}
    parts: List[bytes] = []
    at = 8
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            parts.append(body)
        elif kind in found:
            found[kind] = body
        at += 12 + length
    return found[b"IHDR"], found[b"PLTE"], b"".join(parts)


def unfilter(lines: Any, pixel: int) -> Any:
    """Undo PNG's filters: uint8 [H, 1 + bytes] (the filter first) -> [H, bytes]; ``pixel`` bytes lie between a byte and its left."""
    height, width = lines.shape[0], lines.shape[1] - 1
    out = np.zeros((height, width), np.uint8)
    above = np.zeros(width, np.uint8)
    for y in range(height):
        kind, line = int(lines[y, 0]), lines[y, 1:]
        if kind == 0:
            out[y] = line
        elif kind == 1:
            out[y] = np.cumsum(line.reshape(-1, pixel), axis=0, dtype=np.uint8).reshape(-1)
        elif kind == 2:
            out[y] = line + above
        elif kind in (3, 4):
            out[y] = _sequential(line.tobytes(), above.tobytes(), pixel, kind)
        else:
            raise ValueError(kind)
        above = out[y]
    return out


def _sequential(line: bytes, above: bytes, pixel: int, kind: int) -> Any:
    out = bytearray(line)
    for k in range(len(out)):
        left, up = (out[k - pixel] if k >= pixel else 0), above[k]
        if kind == 3:
            guess = (left + up) // 2
        else:
            corner = above[k - pixel] if k >= pixel else 0
            a, b, c = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = left if a <= b and a <= c else up if b <= c else corner
        out[k] = (out[k] + guess) & 255
    return np.frombuffer(bytes(out), np.uint8)


def encode_png(image: Any) -> bytes:
    """PNG of uint8 RGB [H, W, 3]; every line is the difference to the one above."""
    height, width = image.shape[:2]
    lines = np.empty((height, 1 + 3 * width), np.uint8)
    flat = np.ascontiguousarray(image).reshape(height, -1)
    lines[:, 0], lines[0, 1:], lines[1:, 1:] = 2, flat[0], flat[1:] - flat[:-1]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 3)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _opencv(data: bytes) -> Any:
    try:
        import cv2
    except ImportError:
        return None
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if found is None else np.ascontiguousarray(found[:, :, ::-1])


def _pillow(data: bytes) -> Any:
    try:
        import io

        from PIL import Image, ImageOps
    except ImportError:
        return None
    upright = getattr(ImageOps, "exif_transpose", lambda opened: opened)  # new in Pillow 6; OpenCV turns them by itself
    try:
        return np.array(upright(Image.open(io.BytesIO(data))).convert("RGB"))
    except OSError:
        return None


def _ffmpeg(path: Path) -> Any:
    if not shutil.which("ffmpeg"):
        if decoder() != "own":
            raise DeviceError("{} is damaged, or no image".format(path))
        what = "{} cannot be decoded: it is neither PNG nor PPM, and there is no OpenCV, Pillow or ffmpeg (apt-get install python3-opencv)"
        raise DeviceError(what.format(path))
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    if done.returncode or not done.stdout.startswith(b"P6"):
        raise DeviceError("{} cannot be decoded: {}".format(path, done.stderr.decode("utf-8", "replace").strip()[-200:]))
    return decode_pnm(done.stdout, path)


def check_writable(suffix: str) -> None:
    """Refuse an ending that ``write_image`` cannot write, before there is anything to write."""
    if suffix not in (".ppm", ".png"):
        _encode_other(np.zeros((1, 1, 3), np.uint8), suffix)


def _encode_other(image: Any, suffix: str) -> bytes:
    try:
        import cv2
    except ImportError:
        raise DeviceError("'{}' cannot be written without OpenCV: name the output .png or .ppm".format(suffix or "no suffix")) from None
    try:
        return bytes(cv2.imencode(suffix, np.ascontiguousarray(image[:, :, ::-1]))[1].tobytes())
    except cv2.error:
        raise DeviceError("'{}' cannot be written by OpenCV: name the output .png".format(suffix)) from None
