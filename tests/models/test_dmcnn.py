import pytest
import torch
import torch.nn.functional as F

from models.arch import build, load_arch
from models.dmcnn.blocks import ChannelAttention, DynamicConv, MultiScaleBlock
from pipeline.errors import UsageError
from tests.models.helpers import image, lively, small


def shapes(config):
    with torch.device("meta"):
        network = load_arch("dmcnn").official(build("dmcnn", config))
    return {name: tuple(t.shape) for name, t in network.state_dict().items()}


def unfolded(layer, x):
    """The description's form: patches as [B, C, k^2, H*W], weighted and summed."""
    batch, channels, height, width = x.shape
    area = layer.kernel**2
    weights = F.relu(layer.generate(x)).view(batch, channels, area, height * width)
    patches = F.unfold(x, layer.kernel, padding=layer.kernel // 2).view(batch, channels, area, height * width)
    return (patches * weights).sum(2).view(x.shape)


def pixel_by_pixel(layer, x):
    out, reach = torch.zeros_like(x), layer.kernel // 2
    weights = F.relu(layer.generate(x))
    for n, c, y, z in torch.cartesian_prod(*(torch.arange(s) for s in x.shape)).tolist():
        for i in range(layer.kernel**2):
            row, column = y + i // layer.kernel - reach, z + i % layer.kernel - reach
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                out[n, c, y, z] += weights[n, c * layer.kernel**2 + i, y, z] * x[n, c, row, column]
    return out


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_dynamic_convolution_weights_every_neighbourhood_by_its_own_kernel(kernel):
    layer, x = lively(DynamicConv(3, kernel)), torch.randn(2, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), pixel_by_pixel(layer, x))
        torch.testing.assert_close(layer(x), unfolded(layer, x))


def test_dynamic_convolution_has_the_gradients_of_the_unfolded_form():
    layer, x = lively(DynamicConv(4, 5)), torch.randn(1, 4, 9, 11, requires_grad=True)
    for parameter in (x, *layer.parameters()):
        grown = [torch.autograd.grad(form.square().sum(), parameter)[0] for form in (layer(x), unfolded(layer, x))]
        torch.testing.assert_close(*grown)


def test_kernels_are_never_negative():
    layer = DynamicConv(2)
    torch.nn.init.constant_(layer.generate.weight, -1.0)
    torch.nn.init.zeros_(layer.generate.bias)
    assert torch.equal(layer(torch.ones(1, 2, 4, 4)), torch.zeros(1, 2, 4, 4))


def test_multi_scale_block_computes_the_described_formula():
    block, x = lively(MultiScaleBlock(4)), torch.randn(2, 4, 7, 6)
    y = F.relu(block.second(F.relu(block.first(x))))
    gate = torch.sigmoid(torch.einsum("oi,ni->no", block.attention.conv.weight[..., 0, 0], y.mean((2, 3))) + block.attention.conv.bias)
    torch.testing.assert_close(block(x), y * gate[..., None, None])


def test_attention_is_in_the_skips():
    network = small("dmcnn")
    skips = network.network.skips
    assert [type(skip) for skip in skips] == [ChannelAttention] * 2
    with torch.no_grad():
        before = network(image(16, 16))
        for skip in skips:
            skip.conv.bias.fill_(-100)
        closed = network(image(16, 16))
    assert (before - closed).abs().max() > 1e-3


def test_its_own_convention_is_images_around_zero():
    network, lq = small("dmcnn"), image(16, 24)
    with torch.no_grad():
        torch.testing.assert_close(network(lq), (load_arch("dmcnn").official(network)(2 * lq - 1) + 1) / 2)
    assert network.padding == "reflect"
    assert network.size_multiple == 4


def test_cost_of_the_default():
    assert sum(torch.Size(shape).numel() for shape in shapes({}).values()) == 3_240_515


@pytest.mark.parametrize("config", [{"widths": [32, 64, 128, 256], "kernel": 3}, {"widths": [8, 12, 20], "kernel": 7}])
def test_configuration_is_read_from_the_weights(config):
    assert load_arch("dmcnn").read(shapes(config)) == config
    assert load_arch("dmcnn").read({k: v for k, v in shapes(config).items() if "attention" not in k}) == config


@pytest.mark.parametrize(
    "foreign",
    [
        {},
        {"stem.weight": (8, 3, 3, 3)},
        {"stem.weight": (), "dynamic.generate.weight": ()},
        {"stem.weight": (8, 3, 3, 3), "dynamic.generate.weight": (72,)},
        {"stem.weight": (8, 3, 3, 3), "dynamic.generate.weight": (72, 0, 1, 1)},
        {f"layer{i}.weight": (4, 4) for i in range(200)} | shapes({}),
    ],
)
def test_foreign_weights_are_not_read(foreign):
    assert load_arch("dmcnn").read(foreign) is None


def test_an_even_kernel_has_no_centre():
    with pytest.raises(UsageError, match="an odd side, not 4"):
        build("dmcnn", {"kernel": 4})
