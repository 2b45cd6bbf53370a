import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from data.camera import to_linear, to_pixels
from data.synthesis import BlurSettings, Window, synthesize
from tests.data.helpers import psnr, texture

STILL = BlurSettings(length=(0, 0), rotation=(0, 0), foreground=0, read_noise=(0, 0), shot_noise=(0, 0))
SHAKE = STILL.model_copy(update={"length": (8, 8)})


def test_same_seed_and_index_same_bytes():
    sharp = texture()
    first, again = (synthesize(sharp, BlurSettings(), 7, 3) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


@pytest.mark.parametrize(("seed", "index"), [(7, 4), (8, 3), (3, 7)])
def test_another_seed_or_index_gives_another_blur(seed, index):
    sharp = texture()
    assert not np.array_equal(synthesize(sharp, SHAKE, 7, 3)[0], synthesize(sharp, SHAKE, seed, index)[0])


def test_number_of_threads_changes_nothing():
    sharp, before = texture(), cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            results.append(synthesize(sharp, BlurSettings(), 1, 1)[0])
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(*results)


def test_input_is_not_changed():
    sharp = texture()
    copy = sharp.copy()
    synthesize(sharp, BlurSettings(foreground=1), 1, 1)
    assert np.array_equal(sharp, copy)


@pytest.mark.parametrize("gamma", ["srgb", 2.2, 1.0])
def test_still_camera_and_scene_change_nothing(gamma):
    sharp = texture()
    lq, gt = synthesize(sharp, STILL.model_copy(update={"gamma": gamma}), 1, 2)
    assert np.array_equal(gt, sharp)
    assert np.array_equal(lq, sharp)


def test_sharp_image_is_the_photograph_outside_the_object():
    sharp = texture()
    assert np.array_equal(synthesize(sharp, SHAKE, 1, 2)[1], sharp)
    with_object = synthesize(sharp, SHAKE.model_copy(update={"foreground": 1.0}), 1, 2)[1]
    changed = (with_object != sharp).any(axis=2)
    assert 0.02 < changed.mean() < 0.5


def test_shake_blurs_and_stays_registered():
    """Over many exposures the blurred image lies around the sharp one: their best alignment is no shift."""
    sharp = texture(128, 128)
    grey = sharp.mean(axis=2)
    shifts = [cv2.phaseCorrelate(grey, synthesize(sharp, SHAKE, 1, i)[0].mean(axis=2))[0] for i in range(24)]
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.5
    assert psnr(synthesize(sharp, SHAKE, 1, 0)[0], sharp) < 45


def test_averages_linear_light():
    """A moving bright spot keeps its light; averaging pixel values would lose most of it."""
    sharp = np.zeros((64, 64, 3), np.uint8)
    sharp[29:35, 29:35] = 220
    lq, gt = synthesize(sharp, STILL.model_copy(update={"length": (14, 14), "tremor": (0, 0)}), 5, 0)
    light = to_linear(lq, "srgb").sum() / to_linear(gt, "srgb").sum()
    assert light == pytest.approx(1, abs=0.02)
    assert lq.astype(float).sum() > 1.2 * gt.sum()


def test_rotation_blurs_more_far_from_its_centre():
    sharp = texture(256, 256)
    settings = STILL.model_copy(update={"rotation": (1.5, 1.5)})
    error = np.abs(np.subtract(*(x.astype(float) for x in synthesize(sharp, settings, 3, 0)))).mean(axis=2)
    blocks = error.reshape(4, 64, 4, 64).mean(axis=(1, 3))
    assert blocks.max() > 1.5 * blocks.min()


def test_object_moves_on_its_own():
    sharp = texture()
    settings = STILL.model_copy(update={"foreground": 1.0, "foreground_speed": (10, 10)})
    lq, gt = synthesize(sharp, settings, 2, 0)
    blurred, placed = (lq != gt).any(axis=2), (gt != sharp).any(axis=2)
    assert blurred.mean() > 0.02
    assert not (blurred & ~cv2.dilate(placed.astype(np.uint8), np.ones((15, 15))).astype(bool)).any()


def test_window_is_that_part_of_the_whole():
    """What moves into a window from outside is the photograph's own content."""
    sharp = texture(128, 128)
    window = Window(40, 48, 48, 40)
    lq, gt = synthesize(sharp, SHAKE, 1, 0, window)
    assert lq.shape == gt.shape == (48, 40, 3)
    assert np.array_equal(gt, window.cut(sharp))
    other = sharp.copy()
    other[:40] = 255 - other[:40]
    assert not np.array_equal(synthesize(other, SHAKE, 1, 0, window)[0], lq)


def test_flat_image_stays_flat_to_its_border():
    flat = np.full((64, 80, 3), 130, np.uint8)
    settings = BlurSettings(foreground=1, read_noise=(0, 0), shot_noise=(0, 0))
    assert all(np.abs(synthesize(flat, settings, 1, i)[0].astype(int) - 130).max() <= 1 for i in range(4))


def test_noise_has_the_stated_size():
    flat = np.full((128, 128, 3), 128, np.uint8)
    settings = STILL.model_copy(update={"read_noise": (0.01, 0.01), "shot_noise": (0.0004, 0.0004)})
    lq, gt = synthesize(flat, settings, 1, 0)
    assert np.array_equal(gt, flat)
    level = float(to_linear(flat, "srgb")[0, 0, 0])
    assert to_linear(lq, "srgb").std() == pytest.approx((0.01**2 + 0.0004 * level) ** 0.5, rel=0.03)


@pytest.mark.parametrize("gamma", ["srgb", 2.2, 1.0])
def test_every_pixel_value_survives_linear_light(gamma):
    ramp = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    assert np.array_equal(to_pixels(to_linear(ramp, gamma), gamma), ramp)


def test_srgb_constants():
    """IEC 61966-2-1: the pixel value 188 is half of full light, 10 lies on the straight part's end."""
    values = to_linear(np.array([[[188, 10, 255]]], np.uint8), "srgb")[0, 0]
    assert values == pytest.approx([0.502886, 0.003035, 1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subframes": 10}, "10 is even: the sharp image is the middle sub-frame, so the number must be odd"),
        ({"length": (9, 2)}, "the lower bound 9 is above the upper bound 2"),
        ({"length": (float("nan"), 2)}, "finite number"),
        ({"foreground": 1.5}, "less than or equal to 1"),
        ({"gamma": 0}, "greater than 0"),
        ({"lenght": (1, 2)}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValidationError, match=message):
        BlurSettings(**settings)


def test_every_setting_is_described():
    assert all(field.description for field in BlurSettings.model_fields.values())


def test_bad_input():
    with pytest.raises(ValueError, match="expected a uint8 RGB image"):
        synthesize(np.zeros((8, 8, 3), np.float32), BlurSettings(), 0, 0)
    with pytest.raises(ValueError, match="leaves the image of 96x128"):
        synthesize(texture(), BlurSettings(), 0, 0, Window(90, 0, 10, 10))
