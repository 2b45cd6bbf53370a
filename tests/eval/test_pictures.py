from __future__ import annotations

import cv2
import numpy as np
import pytest

from eval.jobs import find_jobs
from eval.pictures import Picture, read_picture, write_picture
from eval.video import restore_video
from pipeline.errors import UsageError
from tests.eval.model_example import photo


def darker(image: np.ndarray) -> np.ndarray:
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    return np.maximum(image, 10) - 10


def gradient16() -> np.ndarray:
    """uint16 [64, 256, 3] with steps finer than 8 bits hold."""
    ramp = np.linspace(20000, 24000, 256).astype(np.uint16)
    return np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[::-1], (64, 1)), np.full((64, 256), 30001, np.uint16)], axis=2)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_colour_comes_back_in_order(tmp_path, suffix):
    image = photo(40, 50)
    write_picture(tmp_path / "deep" / f"a{suffix}", Picture(image))
    back = read_picture(tmp_path / "deep" / f"a{suffix}")
    assert np.array_equal(back.pixels, image)
    assert back.size == (40, 50)
    assert np.array_equal(back.restored(darker).pixels, darker(image))


def test_grey_stays_grey(tmp_path):
    grey = photo(40, 50)[..., 0]
    write_picture(tmp_path / "a.png", Picture(grey))
    back = read_picture(tmp_path / "a.png").restored(darker)
    assert back.pixels.shape == (40, 50)
    assert np.abs(back.pixels.astype(int) - (np.maximum(grey, 10) - 10)).max() <= 1


def test_alpha_is_kept(tmp_path):
    alpha = np.arange(2000, dtype=np.uint8).reshape(40, 50)
    write_picture(tmp_path / "a.png", Picture(np.dstack([photo(40, 50), alpha])))
    out = read_picture(tmp_path / "a.png").restored(darker)
    assert np.array_equal(out.pixels[..., 3], alpha)
    assert np.array_equal(out.pixels[..., :3], darker(photo(40, 50)))


def test_sixteen_bits_keep_their_gradations(tmp_path):
    pixels = gradient16()
    write_picture(tmp_path / "a.png", Picture(pixels))
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal(picture.restored(lambda image: image).pixels, pixels)
    assert np.array_equal(picture.restored(darker).pixels, pixels - 2570)
    assert np.array_equal(Picture(np.dstack([pixels, pixels[..., 0]])).restored(darker).pixels[..., 3], pixels[..., 0])
    assert Picture(pixels[..., 0]).restored(darker).pixels.dtype == np.uint16


def test_sixteen_bits_are_clipped_not_wrapped():
    out = Picture(np.full((20, 20, 3), 65000, np.uint16)).restored(lambda image: np.full_like(image, 255)).pixels
    assert out.min() == 65514  # 65000 is 253 at 8 bits; two steps of 257 more
    assert Picture(np.full((20, 20, 3), 65535, np.uint16)).restored(np.zeros_like).pixels.max() == 0


def test_an_exif_orientation_is_applied(tmp_path):
    exif = b"\xff\xe1\x00\x22Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    _, content = cv2.imencode(".jpg", photo(40, 60))
    (tmp_path / "turned.jpg").write_bytes(content.tobytes()[:2] + exif + content.tobytes()[2:])
    assert read_picture(tmp_path / "turned.jpg").size == (60, 40)


@pytest.mark.parametrize(("name", "content", "what"), [("a.png", b"", "not a readable image"), ("b.jpg", b"text", "not a readable image")])
def test_what_is_no_picture_is_refused(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=what):
        read_picture(tmp_path / name)


def test_missing_float_and_unknown_formats_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be opened"):
        read_picture(tmp_path / "none.png")
    cv2.imwrite(str(tmp_path / "f.tiff"), np.zeros((20, 20, 3), np.float32))
    with pytest.raises(UsageError, match="holds float32 values\nhint: convert it to 8 or 16 bits"):
        read_picture(tmp_path / "f.tiff")
    with pytest.raises(UsageError, match=r"unknown image format '\.gif'"):
        write_picture(tmp_path / "a.gif", Picture(photo(20, 20)))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", Picture(photo(20, 20)))


def write_video(path, frames: int = 5) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (96, 64))
    for i in range(frames):
        writer.write(np.roll(photo(64, 96), 4 * i, axis=1))
    writer.release()


def test_a_video_keeps_size_rate_and_frames(tmp_path):
    write_video(tmp_path / "in.mp4")
    seen = []
    count = restore_video(tmp_path / "in.mp4", tmp_path / "o" / "out.mp4", darker, lambda done, total: seen.append((done, total)))
    back = cv2.VideoCapture(str(tmp_path / "o" / "out.mp4"))
    assert count == 5
    assert back.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    assert back.get(cv2.CAP_PROP_FPS) == 12.5
    ok, frame = back.read()
    assert ok
    assert frame.shape == (64, 96, 3)
    assert seen == [(i, 5) for i in range(1, 6)]
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["out.mp4"]


def test_an_unreadable_video_leaves_nothing(tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(UsageError, match="not a readable video\nhint: convert it to an MP4"):
        restore_video(tmp_path / "bad.mp4", tmp_path / "out.mp4", darker)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.mp4"]


@pytest.fixture
def tree(tmp_path):
    for name in ("in/a.png", "in/sub/b.JPG", "in/sub/clip.mov", "in/notes.txt", "in/.hidden/c.png", "other/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def pairs(jobs, root) -> dict[str, str]:
    return {str(j.source.relative_to(root)): str(j.out.relative_to(root)) for j in jobs}


def test_folders_are_mirrored_and_files_are_flat(tree):
    expected = {"in/a.png": "out/a.png", "in/sub/b.JPG": "out/sub/b.JPG", "in/sub/clip.mov": "out/sub/clip.mp4"}
    assert pairs(find_jobs([tree / "in"], tree / "out"), tree) == expected
    assert pairs(find_jobs([tree / "in/sub/b.JPG"], tree / "out"), tree) == {"in/sub/b.JPG": "out/b.JPG"}
    assert [j.is_video for j in find_jobs([tree / "in"], tree / "out")] == [False, False, True]


def test_earlier_results_inside_the_input_are_no_inputs(tree):
    out = tree / "in" / "out"
    out.mkdir()
    (out / "a.png").write_text("result")
    jobs = find_jobs([tree / "in"], out, force=True)
    assert out / "a.png" not in {j.source for j in jobs}
    assert len(jobs) == 3


@pytest.mark.parametrize(
    ("inputs", "out", "message"),
    [
        (["in", "other"], "out", r"other/a.png: and .*in/a.png would both be written to .*out/a.png\nhint: restore them in two calls"),
        (["in"], "in", r"--out .*in: the result would replace the input .*in/a.png\nhint: name another folder; inputs are never replaced"),
        (["none"], "out", r"none: no such file or folder\nhint: check the path"),
        (["in/notes.txt"], "out", r"notes.txt: '.txt' is neither an image nor a video\nhint: known: .png"),
        (["in/.hidden"], "in/notes.txt", r"--out .*: is a file\nhint: name a folder"),
        (["other"], "in", r"in/a.png: exists already\nhint: name another --out, or say --force"),
    ],
)
def test_jobs_that_would_lose_something_are_refused(tree, inputs, out, message):
    with pytest.raises(UsageError, match=message):
        find_jobs([tree / i for i in inputs], tree / out)


def test_force_replaces_results_but_never_inputs(tree):
    assert find_jobs([tree / "other"], tree / "in", force=True)
    with pytest.raises(UsageError, match="would replace the input"):
        find_jobs([tree / "in"], tree / "in", force=True)
    (tree / "link").symlink_to(tree / "in")
    with pytest.raises(UsageError, match="would replace the input"):
        find_jobs([tree / "in"], tree / "link", force=True)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no image and no video"):
        find_jobs([tmp_path], tmp_path / "out")
