from __future__ import annotations

import builtins
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval import tiling
from eval.quality import to_batch, to_image
from pipeline.errors import UsageError
from tests.targets.device_path import FOLDER

from board import basics, images, tiles, video  # isort: skip

PATH = Path("picture")


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board without OpenCV and Pillow."""
    original = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.partition(".")[0] in ("cv2", "PIL"):
            raise ImportError(name)
        return original(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(path)
    return path


def photo() -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.chelsea()[:61, :83])


@pytest.mark.parametrize("filters", range(5))
def test_own_png_reader_undoes_every_filter(filters: int):
    """Each line is filtered by hand with the formulas of the PNG specification, section 9."""
    want = photo()
    height, width = want.shape[:2]
    flat = want.reshape(height, -1).astype(int)
    up = np.vstack([np.zeros((1, flat.shape[1]), int), flat[:-1]])
    left, corner = (np.hstack([np.zeros((height, 3), int), m[:, :-3]]) for m in (flat, up))
    guess = left + up - corner
    away = [np.abs(guess - m) for m in (left, up, corner)]
    paeth = np.where((away[0] <= away[1]) & (away[0] <= away[2]), left, np.where(away[1] <= away[2], up, corner))
    predicted = [np.zeros_like(flat), left, up, (left + up) // 2, paeth][filters]
    lines = np.hstack([np.full((height, 1), filters), (flat - predicted) % 256]).astype(np.uint8)
    assert np.array_equal(images.unfilter(lines, 3).reshape(want.shape), want)


@pytest.mark.parametrize("shape", [(37, 53, 3), (37, 53, 4), (37, 53, 1), (1, 1, 3), (5, 1, 3)])
def test_own_png_reader_reads_what_others_write(tmp_path: Path, bare: None, shape: tuple[int, int, int]):
    want = noise(*shape)
    data = save(tmp_path / "a.png", want).read_bytes()
    assert np.array_equal(images.read_image(tmp_path / "a.png"), np.broadcast_to(want[..., :3], (*shape[:2], 3)))
    assert np.array_equal(images.decode_png(data, PATH), np.broadcast_to(want[..., :3], (*shape[:2], 3)))


def test_own_png_reader_reads_palettes_and_16_bits(tmp_path: Path):
    want = photo()
    Image.fromarray(want).quantize(200).save(tmp_path / "palette.png")
    assert np.array_equal(
        images.decode_png((tmp_path / "palette.png").read_bytes(), PATH), Image.open(tmp_path / "palette.png").convert("RGB")
    )
    deep = np.random.default_rng(1).integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep[:, :, ::-1])
    assert np.array_equal(images.decode_png((tmp_path / "deep.png").read_bytes(), PATH), (deep >> 8).astype(np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".ppm"])
@pytest.mark.parametrize("shape", [(37, 53, 3), (1, 1, 3)])
def test_what_is_written_is_what_others_read(tmp_path: Path, suffix: str, shape: tuple[int, int, int]):
    want = noise(*shape)
    images.write_image(tmp_path / f"a{suffix}", want)
    assert np.array_equal(cv2.imread(str(tmp_path / f"a{suffix}"))[:, :, ::-1], want)
    assert np.array_equal(np.array(Image.open(tmp_path / f"a{suffix}")), want)
    assert np.array_equal(images.read_image(tmp_path / f"a{suffix}"), want)


def test_pnm_of_all_kinds():
    assert images.decode_pnm(b"P6 # a comment\n2 1\n255\n\x01\x02\x03\x04\x05\x06", PATH).tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert images.decode_pnm(b"P5\n2 1\n255\n\x07\x09", PATH).tolist() == [[[7] * 3, [9] * 3]]
    assert images.decode_pnm(b"P5\n1 1\n65535\n\xff\xff", PATH).tolist() == [[[255] * 3]]
    with pytest.raises(basics.DeviceError, match="picture is damaged: it is no whole PGM or PPM image"):
        images.decode_pnm(b"P6\n2 1\n255\n\x01", PATH)


def test_what_cannot_be_read_is_said_in_words(tmp_path: Path, bare: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    png = b"\x89PNG\r\n\x1a\n" + images._chunk(b"IHDR", header) + images._chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    cases = {
        "interlaced.png": (png, "has a form that needs OpenCV or Pillow: apt-get install python3-opencv"),
        "cut.png": (images.encode_png(noise(9, 9))[:90], "is damaged: it is no whole PNG image"),
        "photo.jpg": (b"\xff\xd8\xff", "cannot be decoded: it is neither PNG nor PPM, and there is no OpenCV, Pillow or ffmpeg"),
    }
    for name, (data, text) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(basics.DeviceError, match=text):
            images.read_image(tmp_path / name)
    with pytest.raises(basics.DeviceError, match="nowhere cannot be read"):
        images.read_image(tmp_path / "nowhere")
    with pytest.raises(basics.DeviceError, match=r"'.jpg' cannot be written without OpenCV: name the output .png or .ppm"):
        images.write_image(tmp_path / "out.jpg", noise(2, 2))
    assert images.decoder() == "own"


def test_other_formats_by_what_is_there(tmp_path: Path):
    want = photo()
    images.write_image(tmp_path / "a.bmp", want)
    assert np.array_equal(images.read_image(tmp_path / "a.bmp"), want)
    with pytest.raises(basics.DeviceError, match=r"'.nonsense' cannot be written"):
        images.write_image(tmp_path / "a.nonsense", want)


def test_conversions_are_the_pipeline_s():
    image = noise(70, 33)
    assert np.array_equal(tiles.to_batch(image), to_batch(image))
    values = np.random.default_rng(0).uniform(-0.2, 1.2, (1, 3, 70, 33)).astype(np.float32)
    assert np.array_equal(tiles.to_image(values), to_image(values))
    with pytest.raises(basics.DeviceError, match="returns values that are no numbers"):
        tiles.to_image(np.where(values > 1.19, np.nan, values))


def smooth(x: np.ndarray) -> np.ndarray:
    """A network that sees two pixels in each direction."""
    out = sum(np.roll(x, (dy, dx), (2, 3)) * np.float32(0.04) for dy in range(-2, 3) for dx in range(-2, 3))
    return np.asarray(out, np.float32)


def pooled(x: np.ndarray) -> np.ndarray:
    """One that pools over its whole input: every tile comes out another way."""
    return np.asarray(smooth(x) * (2 * x.mean((2, 3), keepdims=True)), np.float32)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([16, 24, 32]),
    st.integers(0, 5),
    st.sampled_from([1, 4, 8]),
    st.integers(0, 8),
    st.sampled_from([smooth, pooled]),
)
def test_tiles_are_the_pipeline_s(height: int, width: int, tile: int, halo: int, multiple: int, blend: int, network: tiling.Run):
    image = noise(height, width)
    artifact = {"tile": [tile, tile + 8], "halo": halo, "blend": blend, "height": tile, "width": tile + 8}
    try:
        plan = tiling.tile_plan(height, width, (tile, tile + 8), halo, multiple, blend)
    except UsageError:  # nothing is left inside the halo
        with pytest.raises(basics.DeviceError, match="leave nothing inside a halo"):
            tiles.Restorer(network, artifact, multiple)(image)
        return
    assert np.array_equal(tiles.Restorer(network, artifact, multiple)(image), tiling.restore_tiled(image, network, plan))


def test_a_bundle_that_says_nothing_of_mixing_is_cut():
    image, artifact = noise(40, 70), {"tile": [32, 32], "halo": 8, "height": 32, "width": 32}
    got = [tiles.Restorer(pooled, {**artifact, **more}, 4)(image) for more in ({}, {"blend": 0}, {"blend": 8})]
    assert np.array_equal(got[0], got[1]) and not np.array_equal(got[0], got[2])


def test_a_number_that_is_none_is_refused_while_tiles_are_mixed():
    restorer = tiles.Restorer(lambda x: x * np.nan, {"tile": [32, 32], "halo": 8, "blend": 8, "height": 32, "width": 32}, 4)
    with pytest.raises(basics.DeviceError, match="returns values that are no numbers"):
        restorer(noise(40, 70))


def test_a_free_size_is_no_larger_than_the_image_needs():
    seen: list[tuple[int, ...]] = []
    told: list[tuple[int, int]] = []

    def run(x: np.ndarray) -> np.ndarray:
        seen.append(x.shape)
        return x

    restorer = tiles.Restorer(run, {"tile": [64, 96], "halo": 8, "height": 0, "width": 0}, 8)
    image = noise(20, 130)
    assert np.array_equal(restorer(image, lambda done, total: told.append((done, total))), image)
    assert seen == [(1, 3, 24, 96)] * 2
    assert told == [(1, 2), (2, 2)]


def test_a_tile_that_is_all_halo_is_refused():
    restorer = tiles.Restorer(smooth, {"tile": [16, 16], "halo": 8, "height": 16, "width": 16}, 4)
    with pytest.raises(basics.DeviceError, match="tiles of 16 pixels leave nothing inside a halo of 8 on both sides"):
        restorer(noise(40, 40))


def clip(path: Path, frames: int = 5) -> list[np.ndarray]:
    grey = [np.full((48, 64, 3), 40 * k, np.uint8) for k in range(frames)]
    with video.VideoWriter(path, 64, 48, 12.5) as writer:
        for frame in grey:
            writer.write(frame)
    return grey


def test_videos_through_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no ffmpeg
    want = clip(tmp_path / "a.mp4")
    opened = video.Video(tmp_path / "a.mp4")
    assert (opened.width, opened.height, opened.rate, opened.count) == (64, 48, 12.5, 5)
    got = list(opened.frames())
    assert len(got) == 5 and max(np.abs(a.astype(int) - b).max() for a, b in zip(got, want, strict=True)) < 8


def test_videos_through_ffmpeg(tmp_path: Path, bare: None):
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("needs ffmpeg: apt-get install ffmpeg")
    want = clip(tmp_path / "a.mp4")
    opened = video.Video(tmp_path / "a.mp4")
    assert (opened.width, opened.height, opened.rate, opened.count) == (64, 48, 12.5, 5)
    got = list(opened.frames())
    assert len(got) == 5 and max(np.abs(a.astype(int) - b).max() for a, b in zip(got, want, strict=True)) < 8


def test_videos_that_cannot_be_are_said_in_words(tmp_path: Path, bare: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.mp4").write_bytes(b"")
    for make in (lambda: video.Video(tmp_path / "a.mp4"), lambda: video.VideoWriter(tmp_path / "b.mp4", 8, 8, 25)):
        with pytest.raises(basics.DeviceError, match=r"videos need OpenCV or ffmpeg: apt-get install python3-opencv \(or: ffmpeg\)"):
            make()
    with pytest.raises(basics.DeviceError, match="is not there"):
        video.Video(tmp_path / "nowhere.mp4")


def test_a_half_written_video_goes_when_something_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ZeroDivisionError), video.VideoWriter(tmp_path / "b.mp4", 64, 48, 25) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
        raise ZeroDivisionError
    assert not (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [("1280,720,30000/1001,48\n", (1280, 720, 30000 / 1001, 48)), ("64,48,25/1,N/A", (64, 48, 25.0, 0)), ("", (0, 0, 25.0, 0))],
)
def test_what_ffprobe_says(text: str, found: tuple[int, int, float, int]):
    assert video.parse_probe(text) == found


def test_the_scripts_read_images_without_anything_else(tmp_path: Path):
    """In a process of its own that has numpy alone."""
    image = noise(12, 17)
    save(tmp_path / "a.png", image)
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from pathlib import Path; from board import images\n"
    code += f"x = images.read_image(Path({str(tmp_path / 'a.png')!r})); images.write_image(Path({str(tmp_path / 'b.ppm')!r}), x)\n"
    code += "assert not {'cv2', 'PIL', 'torch'} & set(sys.modules)"
    blocked = "import sys\nfor name in ('cv2', 'PIL'): sys.modules[name] = None\n"
    code = code.replace("assert", "for name in ('cv2', 'PIL'): del sys.modules[name]\nassert")
    subprocess.run([sys.executable, "-c", blocked + code], check=True)
    assert np.array_equal(cv2.imread(str(tmp_path / "b.ppm"))[:, :, ::-1], image)
