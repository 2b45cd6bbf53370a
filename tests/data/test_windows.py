import numpy as np
import pytest

from data.windows import MARGIN, shrunk, texture_integral, textured_window
from tests.data.helpers import texture


def test_flat_windows_are_rejected():
    """Half of this photograph is plain: the window is found in the other half."""
    import cv2

    steps = np.zeros((200, 400), np.uint8)
    steps[:, 300:] = 20
    integral = cv2.integral(steps)
    windows = [textured_window(np.random.default_rng(i), integral, 64) for i in range(20)]
    assert all(w.left + w.width > 300 for w in windows)
    assert all(w.grown(MARGIN, steps).width == 64 + 2 * MARGIN for w in windows)


def test_the_integral_holds_the_steps_between_neighbours():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:] = 200
    integral = texture_integral(image)
    assert integral.shape == (5, 7)
    assert integral[-1, -1] == 4 * 200
    assert integral[-1, 2] == 0


def test_window_of_a_small_photograph_keeps_the_margin():
    window = textured_window(np.random.default_rng(1), texture_integral(texture(96, 128)), 512)
    assert window == (MARGIN, MARGIN, 96 - 2 * MARGIN, 128 - 2 * MARGIN)


@pytest.mark.parametrize(("factor", "shape"), [(1, (96, 128, 3)), (2, (48, 64, 3)), (1.5, (64, 85, 3))])
def test_shrinking_averages(factor, shape):
    image = texture(96, 128)
    small = shrunk(image, factor)
    assert small.shape == shape
    assert abs(small.mean() - image.mean()) < 1
