import pytest
import torch
from torch import nn

from models.fold import fold_batchnorm
from tests.models.helpers import image, lively, small


@pytest.mark.parametrize("upsample", ["bilinear", "deconv"])
def test_fold_leaves_the_original_alone_and_agrees_with_it(upsample):
    network = small("student", upsample=upsample, skip="concat").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batchnorm(network)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    lq = image(32, 48)
    with torch.no_grad():
        assert (folded(lq) - network.eval()(lq)).abs().max() <= 1e-5


def test_neighbours_in_a_sequence_are_folded():
    network = lively(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6))
    )
    folded = fold_batchnorm(network)
    assert [type(m) for m in folded] == [nn.Conv2d, nn.Identity, nn.ReLU, nn.ConvTranspose2d, nn.Identity]
    torch.testing.assert_close(folded(image(8, 8)), network(image(8, 8)))


def test_statistics_of_the_batch_cannot_be_folded():
    with pytest.raises(ValueError, match="without running statistics"):
        fold_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))
