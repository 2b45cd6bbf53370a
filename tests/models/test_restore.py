import numpy as np
import pytest
import torch
from torch import nn

from models.restore import pad_to_multiple, restore, restore_image
from tests.models.helpers import image, small


class Recorder(nn.Module):
    """Returns twice its input and remembers what it saw."""

    size_multiple = 8

    def forward(self, lq: torch.Tensor) -> torch.Tensor:
        self.seen, self.mode, self.gradients = lq, self.training, torch.is_grad_enabled()
        return 2 * lq


@pytest.mark.parametrize("size", [(8, 16), (9, 16), (13, 21), (5, 3), (1, 1)])
def test_pads_right_and_bottom_and_crops_back(size):
    network, lq = Recorder(), image(*size, count=2)
    out = restore(network, lq)
    assert torch.equal(out, 2 * lq)
    assert all(side % 8 == 0 for side in network.seen.shape[2:])
    assert torch.equal(network.seen[..., : size[0], : size[1]], lq)
    assert not network.gradients


def test_mirrors_where_it_can_and_repeats_the_border_where_it_cannot():
    lq = image(6, 3)
    padded = pad_to_multiple(lq, 8)
    assert torch.equal(padded[..., 6:, :3], lq[..., [4, 3], :])
    assert torch.equal(padded[..., :6, 3:], lq[..., 2:].expand(1, 3, 6, 5))


@pytest.mark.parametrize(
    ("padding", "bottom", "right"),
    [("reflect", [4, 3], [1, 0]), ("replicate", [5, 5], [2, 2]), ("zero", None, None), ("circular", [4, 3], [1, 0])],
)
def test_the_network_says_how_it_is_padded(padding, bottom, right):
    network, lq = Recorder(), image(6, 3)
    network.size_multiple, network.padding = 4, padding
    restore(network, lq)
    expected = lq[..., [*range(6), *bottom], :] if bottom else torch.cat([lq, torch.zeros(1, 3, 2, 3)], 2)
    expected = expected[..., [*range(3), *right[:1]]] if right else torch.cat([expected, torch.zeros(1, 3, 8, 1)], 3)
    assert torch.equal(network.seen, expected)


def test_the_result_is_an_ordinary_tensor():
    out = restore(Recorder(), image(9, 9))
    assert not out.is_inference()
    assert out.clamp_(0, 1).max() <= 1


def test_modes_are_put_back():
    network = Recorder()
    network.frozen = nn.BatchNorm2d(3).eval()
    restore(network.train(), image(8, 8))
    network.frozen.eval()
    restore(network, image(8, 8))
    assert not network.mode
    assert network.training
    assert not network.frozen.training


def test_images_are_rounded_and_clipped():
    picture = np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)
    restored = restore_image(Recorder(), picture)
    assert restored.dtype == np.uint8
    assert restored.flags.c_contiguous
    np.testing.assert_array_equal(restored, np.minimum(2 * picture.astype(int), 255))


def test_image_and_tensor_agree():
    network, picture = small("student"), np.random.default_rng(0).integers(0, 256, (30, 22, 3), dtype=np.uint8)
    lq = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    expected = restore(network, lq)[0].permute(1, 2, 0).mul(255).round().clamp(0, 255)
    np.testing.assert_array_equal(restore_image(network, picture), expected.numpy().astype(np.uint8))
