import pytest
import torch
import torch.nn.functional as F

from models.arch import build
from models.deblurgan.norm import InstanceNorm2d
from tests.models.helpers import image, small
from tests.models.test_deblurgan import with_buffers


def unet(**config):
    return with_buffers(small("deblurgan", variant="fpn_unet", ngf=2, **config)).network


def reference(state, x, running):
    """The documented formula in plain operators."""

    def conv(y, name, **how):
        dilation = how.get("dilation", 1)
        return F.conv2d(F.pad(y, (dilation,) * 4, mode="replicate"), state[f"{name}.weight"], state[f"{name}.bias"], **how)

    def block(y, name, normal=True, **how):
        y = conv(y, f"{name}.conv", **how)
        if normal and running:
            y = F.batch_norm(y, state[f"{name}.norm.running_mean"], state[f"{name}.norm.running_var"])
        elif normal:
            y = (y - y.mean((2, 3), keepdim=True)) / (y.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        return y.relu()

    def enlarge(y):
        return F.interpolate(y, scale_factor=2, mode="bilinear")

    levels = [x]
    for i in range(7):
        levels.append(block(levels[-1], f"down.{i}", normal=i < 6, stride=2))
    coarse = F.conv2d(block(levels[5], "pyramid.coarse", dilation=4), state["pyramid.reduce.weight"], state["pyramid.reduce.bias"])
    skips = {**dict(enumerate(levels)), 3: levels[3] + block(levels[3], "pyramid.fine", dilation=2) + enlarge(enlarge(coarse))}
    y = block(enlarge(levels[7]), "up.0")
    for i in range(1, 7):
        y = block(enlarge(torch.cat([y, skips[7 - i]], 1)), f"up.{i}")
    return (x + conv(y, "head").tanh()).clamp(-1, 1)


@pytest.mark.parametrize("statistics", ["instance", "running"])
def test_computes_the_documented_formula(statistics):
    network, x = unet(statistics=statistics), 2 * image(128, 256, count=2) - 1
    with torch.no_grad():
        torch.testing.assert_close(network(x), reference(network.state_dict(), x, statistics == "running"), atol=2e-5, rtol=0)


def test_channels_and_size():
    with torch.device("meta"):
        network = build("deblurgan", {"variant": "fpn_unet"}).network
    assert [block.conv.out_channels for block in network.down] == [64, 128, 256, 512, 512, 512, 512]
    assert [block.conv.out_channels for block in network.up] == [512, 512, 512, 256, 128, 64, 64]
    assert {block.conv.stride for block in network.down} == {(2, 2)}
    assert (network.pyramid.fine.conv.dilation, network.pyramid.coarse.conv.dilation) == ((2, 2), (4, 4))
    assert sum(p.numel() for p in network.parameters()) == 26_682_179
    assert not [m for m in network.modules() if isinstance(m, torch.nn.ConvTranspose2d)]


def alternating(y):
    """Amplitude of the pattern with a period of two pixels, along rows or columns, away from the border."""
    y = y[..., 32:-32, 32:-32]
    signs = (-1.0) ** torch.arange(y.shape[-1] - 2)
    rows = y[..., 1:-1, :] - (y[..., :-2, :] + y[..., 2:, :]) / 2
    columns = y[..., 1:-1] - (y[..., :-2] + y[..., 2:]) / 2
    return float(torch.maximum((rows * signs[:, None]).mean((2, 3)).abs().max(), (columns * signs).mean((2, 3)).abs().max()))


def test_even_images_stay_even():
    lq = torch.tensor([0.4, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, 256, 256)
    with torch.no_grad():
        added = with_buffers(small("deblurgan", variant="fpn_unet", ngf=4, statistics="running"))(lq) - lq
        with_transposed = with_buffers(small("deblurgan", statistics="running"))(lq) - lq
    assert added.abs().min() > 0.01
    assert (added - added.mean((2, 3), keepdim=True)).abs().max() < 1e-5
    assert alternating(with_transposed) > 1e-3


@pytest.mark.parametrize("statistics", ["instance", "running"])
def test_smooth_images_get_no_checkerboard(statistics):
    ramp = torch.linspace(0.2, 0.7, 256)
    lq = (0.6 * ramp + 0.4 * ramp[:, None]).expand(1, 3, -1, -1)
    with torch.no_grad():
        added = with_buffers(small("deblurgan", variant="fpn_unet", ngf=4, statistics=statistics))(lq) - lq
        with_transposed = with_buffers(small("deblurgan", statistics=statistics))(lq) - lq
    assert added.std() > 0.01
    assert alternating(added) < 1e-5
    assert alternating(with_transposed) > 1e-3


def test_deepest_block_acts_where_its_map_is_one_pixel():
    network, x = unet(), 2 * image(128, 128) - 1
    assert not [m for m in network.down[6].modules() if isinstance(m, InstanceNorm2d)]
    with torch.no_grad():
        deepest = network.features(x)[1][6]
        before = network(x)
        network.down[6].conv.bias.add_(0.5)
        assert deepest.shape[2:] == (1, 1)
        assert deepest.abs().max() > 0
        assert not torch.equal(network(x), before)
