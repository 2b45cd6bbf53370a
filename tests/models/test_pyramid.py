import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from models.export import export_onnx
from models.pyramid import halve, pyramid
from tests.models.helpers import image

METHODS = ("nearest", "bilinear", "antialias", "bicubic")
every_method = pytest.mark.parametrize("method", METHODS)
every_size = pytest.mark.parametrize("size", [(2, 2), (2, 10), (8, 4), (34, 50)])


@every_size
@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
def test_halves_are_those_of_interpolate(method, size):
    x = image(*size, count=2) * 3 - 1
    aligned = {} if method == "nearest" else {"align_corners": False}
    torch.testing.assert_close(halve(x, method), F.interpolate(x, scale_factor=0.5, mode=method, **aligned), atol=2e-6, rtol=0)


def reduced_by_pillow(x):
    size = (x.shape[1] // 2, x.shape[0] // 2)
    return np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR))


@every_size
def test_antialias_is_pillows_bilinear_reduction(size):
    x = image(*size)
    found = halve(x, "antialias")[0]
    for channel in range(3):
        np.testing.assert_allclose(found[channel].numpy(), reduced_by_pillow(x[0, channel].numpy()), atol=1e-6, rtol=0)


def test_antialias_agrees_with_pillow_on_bytes_to_its_rounding():
    x = (image(34, 50) * 255).round()
    found = halve(x, "antialias")[0, 1].numpy()
    expected = reduced_by_pillow(x[0, 1].numpy().astype(np.uint8)).astype(np.float32)
    assert np.abs(found - expected).max() <= 1.01  # Pillow rounds twice: behind the rows and behind the columns


@every_method
def test_methods_differ_in_the_inside_and_keep_constant_images(method):
    others = [halve(image(16, 16), m) for m in METHODS if m != method]
    assert all((halve(image(16, 16), method) - other).abs().max() > 0.01 for other in others)
    torch.testing.assert_close(halve(torch.full((1, 3, 6, 8), 0.7), method), torch.full((1, 3, 3, 4), 0.7))


@pytest.mark.parametrize("method", ["nearest", "antialias", "bicubic"])
def test_levels_are_successive_halves(method):
    x = image(24, 40)
    levels = pyramid(x, 3, method)
    assert levels[0] is x
    assert torch.equal(levels[1], halve(x, method))
    assert torch.equal(levels[2], halve(levels[1], method))


def test_bilinear_levels_are_interpolated_from_the_full_size():
    x = image(24, 40)
    levels = pyramid(x, 3, "bilinear")
    torch.testing.assert_close(levels[1], F.avg_pool2d(x, 2))
    middle = (x[..., 1::4, 1::4] + x[..., 1::4, 2::4] + x[..., 2::4, 1::4] + x[..., 2::4, 2::4]) / 4
    torch.testing.assert_close(levels[2], middle)


@every_method
def test_gradients_flow_and_types_stay(method):
    x = image(8, 12).double().requires_grad_()
    levels = pyramid(x, 3, method)
    assert {level.dtype for level in levels} == {torch.float64}
    sum(level.sum() for level in levels).backward()
    assert x.grad.abs().sum() > 0


@every_method
def test_autocast_does_not_touch_the_images(method):
    x = image(8, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pyramid(x, 3, method)[2], pyramid(x, 3, method)[2].float())
        found = pyramid(x, 3, method)
    assert all(torch.equal(a, b) for a, b in zip(found, pyramid(x, 3, method), strict=True))


class Smallest(nn.Module):
    """The coarsest level, brought back to the input's size."""

    size_multiple = 4

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, lq):
        return F.interpolate(pyramid(lq, 3, self.method)[2], scale_factor=4.0, mode="nearest")


@every_method
def test_every_method_exports(method, tmp_path):
    import onnxruntime

    export_onnx(Smallest(method), tmp_path / "pyramid.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "pyramid.onnx"), providers=["CPUExecutionProvider"])
    for size in ((4, 4), (12, 20), (36, 8)):
        lq = image(*size)
        np.testing.assert_allclose(session.run(["restored"], {"lq": lq.numpy()})[0], Smallest(method)(lq).numpy(), atol=1e-6, rtol=0)


def test_sizes_that_cannot_be_halved_are_named():
    with pytest.raises(ValueError, match="an image of 6x7 pixels cannot be reduced: both sides must be multiples of 2"):
        halve(image(6, 7), "nearest")
    with pytest.raises(ValueError, match="an image of 6x8 pixels cannot be reduced: both sides must be multiples of 4"):
        pyramid(image(6, 8), 3, "bilinear")
    with pytest.raises(ValueError, match="unknown method 'lanczos'"):
        halve(image(6, 8), "lanczos")
