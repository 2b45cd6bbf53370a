import numpy as np
import pytest

from data.camera import to_linear, to_pixels
from data.frames import FrameFolder, expose, find_footage
from data.images import write_image
from pipeline.errors import UsageError
from tests.data.helpers import panning, texture, write_video


def write_frames(folder, names, size=(40, 48)):
    for i, name in enumerate(names):
        write_image(folder / name, texture(*size, seed=i))


def error(call, path):
    with pytest.raises(UsageError) as caught:
        call(path)
    return str(caught.value)


@pytest.mark.parametrize("names", [["frame2.png", "frame10.png", "frame1.jpg"], ["c_2x_05.png", "b_2x_15.png", "a_2x_10.png"]])
def test_order_is_that_of_the_last_number(tmp_path, names):
    write_frames(tmp_path, names)
    if "frame2.png" in names:
        (tmp_path / "frame10.png").rename(tmp_path / "frame3.png")
    stems = [f.stem for f in FrameFolder(tmp_path).files]
    assert stems in (["frame1", "frame2", "frame3"], ["c_2x_05", "a_2x_10", "b_2x_15"])


def test_ten_comes_after_nine(tmp_path):
    write_frames(tmp_path, [f"{i}.png" for i in range(1, 12)])
    frames = FrameFolder(tmp_path)
    assert [f.stem for f in frames.files] == [str(i) for i in range(1, 12)]
    assert (len(frames), frames.size, len(frames.digests())) == (11, (40, 48), 11)
    assert np.array_equal(frames.read(9, 11)[0], texture(40, 48, seed=9))


def test_steps(tmp_path):
    for i, level in enumerate((10, 10, 60)):
        write_image(tmp_path / f"{i}.png", np.full((20, 20, 3), level, np.uint8))
    assert FrameFolder(tmp_path).steps() == (0, 50)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["1.png", "x.png"], "{0}/x.png: has no number in its name"),
        (["1.png", "2.png", "4.png"], "{0}: frames are missing, or there are too many, between 2.png and 4.png"),
        (["1.png", "01.png"], "{0}: frames are missing, or there are too many, between "),
    ],
)
def test_numbers_that_say_no_order(tmp_path, names, what):
    write_frames(tmp_path, names)
    assert error(FrameFolder, tmp_path).startswith(what.format(tmp_path))


def test_frames_of_another_size(tmp_path):
    write_frames(tmp_path, ["1.png", "2.png"])
    write_image(tmp_path / "2.png", texture(40, 56))
    hint = "hint: all frames of a sequence must be of equal size; give each part a folder of its own"
    assert error(FrameFolder, tmp_path) == f"{tmp_path / '2.png'}: is 56x40 but 1.png is 48x40\n{hint}"


def test_footage_is_found_everywhere(tmp_path):
    write_frames(tmp_path / "set", ["1.png", "2.png"])
    write_frames(tmp_path / "set" / "b" / "c", ["1.png", "2.png"])
    write_video(tmp_path / "set" / "b" / "clip.mp4", panning(5))
    write_video(tmp_path / "set" / "a.avi", panning(5), "MJPG")
    (tmp_path / "set" / "b" / "notes.txt").write_text("")
    footage, findings = find_footage(tmp_path / "set")
    assert [(f.name, len(f.frames)) for f in footage] == [("a", 5), ("b/c", 2), ("b/clip", 5), ("set", 2)]
    assert findings == []
    assert [f.name for f in find_footage(tmp_path / "set" / "a.avi")[0]] == ["a"]


def test_footage_that_is_wrong_is_left_out(tmp_path):
    write_frames(tmp_path / "a", ["1.png", "2.png"])
    write_video(tmp_path / "a.mp4", panning(5))
    write_frames(tmp_path / "b", ["1.png", "x.png"])
    footage, findings = find_footage(tmp_path)
    assert [f.name for f in footage] == ["a"]
    assert [f.error.what for f in findings] == [f"has the same name as {tmp_path / 'a'}", "has no number in its name"]


def test_no_footage(tmp_path):
    assert error(find_footage, tmp_path / "no") == f"{tmp_path / 'no'}: does not exist\nhint: check the path"
    (tmp_path / "a.txt").write_text("")
    assert error(find_footage, tmp_path / "a.txt") == f"{tmp_path / 'a.txt'}: is no video\nhint: readable are .mp4 .mov .avi .mkv"
    assert error(find_footage, tmp_path).startswith(f"{tmp_path}: holds no frames and no video\nhint: put numbered images (.png ")


def test_exposure_is_the_mean_in_linear_light():
    """Half the time black, half white: half the light, which is far from level 128 of an encoded image."""
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert expose([black, white], 2.2)[0, 0, 0] == round(255 * 0.5 ** (1 / 2.2))
    assert expose([black, white], "srgb")[0, 0, 0] == 188
    assert expose([black, white], 1)[0, 0, 0] == 128


@pytest.mark.parametrize("gamma", [2.2, "srgb", 1])
def test_exposure_of_equal_frames_changes_nothing(gamma):
    image = texture()
    assert np.array_equal(expose([image] * 9, gamma), image)


def test_exposure_formula():
    frames = [texture(seed=i) for i in range(5)]
    expected = to_pixels(np.mean([to_linear(f, 2.2) for f in frames], axis=0, dtype=np.float64).astype(np.float32), 2.2)
    assert np.abs(expose(frames, 2.2).astype(int) - expected).max() <= 1
    assert np.mean(expose(frames, 2.2) != expected) < 0.01
