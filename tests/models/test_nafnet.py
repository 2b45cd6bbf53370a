import pytest
import torch
import torch.nn.functional as F

from models.arch import build, load_arch
from models.nafnet.layernorm import LayerNorm2d
from models.nafnet.network import NAFBlock
from pipeline.errors import UsageError
from tests.models.helpers import image, lively, small


@pytest.mark.parametrize(("width", "parameters"), [(8, 1_121_883), (16, 4_347_827), (32, 17_111_907), (64, 67_888_835)])
def test_published_sizes(width, parameters):
    with torch.device("meta"):
        network = build("nafnet", {"width": width})
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == 664


def test_published_names_and_shapes():
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in build("nafnet", {}).state_dict().items()}
    c = 64
    block = {
        **{"beta": (1, c, 1, 1), "gamma": (1, c, 1, 1), "norm1.weight": (c,), "norm1.bias": (c,), "norm2.weight": (c,), "norm2.bias": (c,)},
        **{"conv1.weight": (2 * c, c, 1, 1), "conv1.bias": (2 * c,), "conv2.weight": (2 * c, 1, 3, 3), "conv2.bias": (2 * c,)},
        **{"conv3.weight": (c, c, 1, 1), "conv3.bias": (c,), "conv4.weight": (2 * c, c, 1, 1), "conv4.bias": (2 * c,)},
        **{"conv5.weight": (c, c, 1, 1), "conv5.bias": (c,), "sca.1.weight": (c, c, 1, 1), "sca.1.bias": (c,)},
    }
    assert {k.removeprefix("encoders.1.0."): v for k, v in shapes.items() if k.startswith("encoders.1.0.")} == block
    assert shapes["intro.weight"] == (32, 3, 3, 3)
    assert shapes["ending.weight"] == (3, 32, 3, 3)
    assert shapes["downs.2.weight"] == (256, 128, 2, 2)
    assert shapes["ups.0.0.weight"] == (1024, 512, 1, 1)
    assert "ups.0.0.bias" not in shapes
    assert shapes["middle_blks.0.conv1.weight"] == (1024, 512, 1, 1)
    assert shapes["decoders.3.0.conv1.weight"] == (64, 32, 1, 1)


def test_blocks_start_as_the_identity():
    block, x = NAFBlock(8), torch.randn(2, 8, 12, 12)
    assert torch.equal(block(x), x)


def test_block_computes_the_published_formula():
    block, x = lively(NAFBlock(6)), torch.randn(2, 6, 10, 14)

    def norm(v, layer):
        mean, var = v.mean(1, keepdim=True), v.var(1, keepdim=True, unbiased=False)
        return (v - mean) / (var + 1e-6).sqrt() * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)

    def gate(v):
        return v[:, :6] * v[:, 6:]

    g = gate(block.conv2(block.conv1(norm(x, block.norm1))))
    attention = F.conv2d(g.mean((2, 3), keepdim=True), block.sca[1].weight, block.sca[1].bias)
    y = x + block.beta * block.conv3(g * attention)
    expected = y + block.gamma * block.conv5(gate(block.conv4(norm(y, block.norm2))))
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_layer_norm_uses_the_published_epsilon():
    layer, x = LayerNorm2d(4), 1e-3 * torch.randn(1, 4, 5, 5)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer._spelled_out(x), expected)


def test_odd_sizes_are_zero_padded_right_and_bottom():
    network, lq = small("nafnet"), image(13, 18)
    with torch.no_grad():
        expected = network(F.pad(lq, (0, 2, 0, 3)))[..., :13, :18]
        assert torch.equal(network(lq), expected)


def test_the_published_padding_is_declared_for_other_tools():
    assert small("nafnet").padding == "zero"


SIDD = {"width": 4, "enc_blk_nums": [2, 2, 4, 8], "middle_blk_num": 12, "dec_blk_nums": [2, 2, 2, 2]}


def published_shapes(config):
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build("nafnet", config).state_dict().items()}


@pytest.mark.parametrize("config", [SIDD, {"width": 32, "enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]}])
def test_configuration_is_read_from_the_weights(config):
    shapes = published_shapes(config)
    assert load_arch("nafnet").read(shapes) == config
    damaged = {k: v for i, (k, v) in enumerate(shapes.items()) if i % 5 and not k.startswith("intro")}
    assert load_arch("nafnet").read(damaged) == config


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"intro.weight": (32, 3, 3, 3)},
        {"intro.weight": ()},
        {"Encoder.0.layers.0.main.0.main.0.weight": (32, 32, 3, 3), "feat_extract.0.main.0.weight": (32, 3, 3, 3)},
        {"encoders.99999999999.0.beta": (1, 4, 1, 1), "intro.weight": (4, 3, 3, 3), "decoders.0.0.beta": (1, 4, 1, 1), "": (1,)},
        {f"layers.{i}.weight": (4, 4) for i in range(2000)} | published_shapes(SIDD),
    ],
)
def test_foreign_weights_are_not_read(shapes):
    assert load_arch("nafnet").read(shapes) is None


PINNED = [1.038465, -1.343054, 4.839395, -3.092805, -0.090346]


def test_weights_at_their_published_places_give_the_published_output():
    network = build("nafnet", SIDD)
    with torch.no_grad():
        for name, p in sorted(network.named_parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + len(name) + sum(map(ord, name))).view(p.shape)
            scale = 0.5 if p.shape[:1] == (1,) else 1 / max(1, p[0].numel()) ** 0.5
            p.copy_(wave * scale + ("norm" in name and name.endswith("weight")))
        lq = torch.linspace(0, 1, 3 * 37 * 53).view(1, 3, 37, 53)
        out = network(lq)
    assert out.shape == lq.shape
    torch.testing.assert_close((out - lq).flatten()[::1250], torch.tensor(PINNED), atol=2e-5, rtol=0)


def test_as_many_encoder_as_decoder_scales():
    with pytest.raises(UsageError, match="3 encoder scales need as many decoder scales, not 4"):
        build("nafnet", {"enc_blk_nums": [1, 1, 1]})
