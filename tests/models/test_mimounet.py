import json

import pytest
import torch
import torch.nn.functional as F

from models.arch import build, load_arch, parse_config
from models.fold import fold_batchnorm
from models.mimounet.cfa_frm import CFA
from models.mimounet.network import pixels_last
from models.restore import restore
from pipeline.errors import UsageError
from tests.models.helpers import image, lively, small

ARCH = load_arch("mimounet")


def official_shapes(num_res):
    """The published names and shapes, spelled out."""
    shapes = {}

    def conv(name, *shape):
        shapes[f"{name}.main.0.weight"], shapes[f"{name}.main.0.bias"] = shape, (shape[1 if name in transposed else 0],)

    transposed = {"feat_extract.3", "feat_extract.4"}
    for part, widths in (("Encoder", (32, 64, 128)), ("Decoder", (128, 64, 32))):
        for scale, width in enumerate(widths):
            for block in range(num_res):
                for half in range(2):
                    conv(f"{part}.{scale}.layers.{block}.main.{half}", width, width, 3, 3)
    conv("feat_extract.0", 32, 3, 3, 3)
    conv("feat_extract.1", 64, 32, 3, 3)
    conv("feat_extract.2", 128, 64, 3, 3)
    conv("feat_extract.3", 128, 64, 4, 4)
    conv("feat_extract.4", 64, 32, 4, 4)
    conv("feat_extract.5", 3, 32, 3, 3)
    for index, width in enumerate((32, 64)):
        conv(f"AFFs.{index}.conv.0", width, 224, 1, 1)
        conv(f"AFFs.{index}.conv.1", width, width, 3, 3)
    for index, width in enumerate((128, 64)):
        conv(f"Convs.{index}", width // 2, width, 1, 1)
        conv(f"ConvsOut.{index}", 3, width, 3, 3)
        conv(f"FAM{index + 1}.merge", width, width, 3, 3)
        conv(f"SCM{index + 1}.main.0", width // 4, 3, 3, 3)
        conv(f"SCM{index + 1}.main.1", width // 2, width // 4, 1, 1)
        conv(f"SCM{index + 1}.main.2", width // 2, width // 2, 3, 3)
        conv(f"SCM{index + 1}.main.3", width - 3, width // 2, 1, 1)
        conv(f"SCM{index + 1}.conv", width, width, 1, 1)
    return shapes


def shapes_of(module):
    return {name: tuple(t.shape) for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}


def on_meta(**config):
    with torch.device("meta"):
        return build("mimounet", config)


@pytest.mark.parametrize(("config", "tensors", "parameters"), [({"num_res": 8}, 244, 6_807_171), ({}, 532, 16_107_651)])
def test_published_sizes_names_and_shapes(config, tensors, parameters):
    shapes = shapes_of(ARCH.official(on_meta(**config)))
    assert len(shapes) == tensors
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == parameters
    assert shapes == official_shapes(config.get("num_res", 20))


def plain_forward(w, x):
    """The published formulation, on a state dict: resampled maps are concatenated, then convolved."""

    def conv(name, v, stride=1, relu=True):
        weight, bias = w[f"{name}.main.0.weight"], w[f"{name}.main.0.bias"]
        v = F.conv2d(v, weight, bias, stride, weight.shape[-1] // 2)
        return F.relu(v) if relu else v

    def up_conv(name, v):
        return F.relu(F.conv_transpose2d(v, w[f"{name}.main.0.weight"], w[f"{name}.main.0.bias"], 2, 1))

    def stage(name, v):
        block = 0
        while f"{name}.layers.{block}.main.0.main.0.weight" in w:
            v = v + conv(f"{name}.layers.{block}.main.1", conv(f"{name}.layers.{block}.main.0", v), relu=False)
            block += 1
        return v

    def scm(name, v):
        y = v
        for index in range(4):
            y = conv(f"{name}.main.{index}", y)
        return conv(f"{name}.conv", torch.cat([v, y], 1), relu=False)

    def fam(name, v, shallow):
        return v + conv(f"{name}.merge", v * shallow, relu=False)

    def aff(index, *scales):
        return conv(f"AFFs.{index}.conv.1", conv(f"AFFs.{index}.conv.0", torch.cat(scales, 1)), relu=False)

    def by(v, factor):
        return F.interpolate(v, scale_factor=factor)

    x2, x4 = by(x, 0.5), by(by(x, 0.5), 0.5)
    full = stage("Encoder.0", conv("feat_extract.0", x))
    half = stage("Encoder.1", fam("FAM2", conv("feat_extract.1", full, 2), scm("SCM2", x2)))
    z = stage("Encoder.2", fam("FAM1", conv("feat_extract.2", half, 2), scm("SCM1", x4)))
    skip2 = aff(1, by(full, 0.5), half, by(z, 2.0))
    skip1 = aff(0, full, by(half, 2.0), by(by(z, 2.0), 2.0))
    z = stage("Decoder.0", z)
    quarter = conv("ConvsOut.0", z, relu=False) + x4
    z = stage("Decoder.1", conv("Convs.0", torch.cat([up_conv("feat_extract.3", z), skip2], 1)))
    middle = conv("ConvsOut.1", z, relu=False) + x2
    z = stage("Decoder.2", conv("Convs.1", torch.cat([up_conv("feat_extract.4", z), skip1], 1)))
    return [quarter, middle, conv("feat_extract.5", z, relu=False) + x]


@pytest.mark.parametrize("size", [(4, 4), (60, 52), (32, 48)])
def test_computes_the_published_formulation(size):
    network, x = ARCH.official(small("mimounet", num_res=2, base_channel=8)), image(*size, count=2)
    with torch.no_grad():
        found, expected = network(x), plain_forward(network.state_dict(), x)
    assert [out.shape[2] for out in found] == [size[0] // 4, size[0] // 2, size[0]]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert (expected[2] - x).abs().max() > 0.1


def test_training_computes_the_same_gradients_as_the_published_formulation():
    network, x = ARCH.official(small("mimounet")).train(), image(16, 24, count=2)
    weights = {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}
    sum(out.square().mean() for out in network(x)).backward()
    sum(out.square().mean() for out in plain_forward(weights, x)).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("variant", ["official", "cfa_frm"])
def test_dropout_acts_in_training_only(variant):
    network, x = small("mimounet", variant=variant, dropout=0.5, base_channel=8), image(16, 16, count=2)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))
    silent = small("mimounet", variant=variant, dropout=0.0, base_channel=8).train()
    with torch.no_grad():
        assert torch.equal(silent(x), silent(x))


def test_sizes_that_are_no_multiples_of_4_are_refused_by_the_network_and_restored_by_padding():
    network = small("mimounet")
    with pytest.raises(ValueError, match="62x64 pixels cannot be reduced: both sides must be multiples of 4"):
        network(image(62, 64))
    lq = image(13, 18)
    with torch.no_grad():
        expected = network(F.pad(lq, (0, 2, 0, 3), mode="reflect"))[..., :13, :18]
    assert torch.equal(restore(network, lq), expected)


def test_the_layout_changes_no_value():
    x = image(8, 12, count=2)
    assert torch.equal(pixels_last(x), x)
    assert pixels_last(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batchnorm", [True, False])
def test_aggregation_is_a_convolution_over_the_concatenation(batchnorm):
    cfa = lively(CFA([4, 6, 8], 6, [-1, 0, 1], batchnorm))
    fine, same, coarse = torch.randn(2, 4, 12, 16), torch.randn(2, 6, 6, 8), torch.randn(2, 8, 3, 4)
    up = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
    joined = torch.cat([F.avg_pool2d(fine, 2), same, up], 1)
    torch.testing.assert_close(cfa([fine, same, coarse]), F.relu(cfa.bn(cfa.conv(joined))), atol=1e-5, rtol=1e-5)


def test_cfa_frm_folds_completely_and_says_so_in_its_configuration():
    folded = fold_batchnorm(small("mimounet", variant="cfa_frm"))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert ARCH.config_of(folded) == {"variant": "cfa_frm", "num_res": 1, "base_channel": 4, "dropout": 0.0, "batchnorm": False}


def test_every_scale_reaches_every_output_of_cfa_frm():
    network = small("mimounet", variant="cfa_frm").network
    x = image(16, 16)
    with torch.no_grad():
        before = network(x)
        for stem in network.stems:
            stem[0].weight.add_(0.2)
            assert all((a - b).abs().max() > 1e-4 for a, b in zip(network(x), before, strict=True))
            stem[0].weight.sub_(0.2)


READ = [
    {"variant": "official", "num_res": 8, "base_channel": 32, "dropout": 0.0},
    {"variant": "official", "num_res": 20, "base_channel": 32, "dropout": 0.1},
    {"variant": "official", "num_res": 1, "base_channel": 6, "dropout": 0.0},
    {"variant": "cfa_frm", "num_res": 3, "base_channel": 8, "dropout": 0.1, "batchnorm": True},
    {"variant": "cfa_frm", "num_res": 2, "base_channel": 16, "dropout": 0.1, "batchnorm": False},
]


@pytest.mark.parametrize("config", READ, ids=lambda c: f"{c['variant']}-{c['num_res']}")
def test_configuration_is_read_from_the_weights(config):
    network = on_meta(**config)
    shapes = shapes_of(ARCH.official(network))
    assert json.loads(json.dumps(ARCH.read(shapes))) == config == ARCH.config_of(network)
    names = sorted(shapes)
    most = {name: shapes[name] for index, name in enumerate(names) if index % 5}
    assert ARCH.read(most) == config
    first_gone = {name: (7,) if name.startswith(("feat_extract.0", "stems.0")) else shapes[name] for name in names}
    assert ARCH.read(first_gone) == config


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {
            "": (),
            ".": (1,),
            "Encoder": (),
            "Encoder.0": (3,),
            "Encoder.0.layers": (),
            "Encoder.x.layers.0.main.0.main.0.weight": (4, 4, 3, 3),
        },
        {"Encoder.0.layers.0.main.0.main.0.weight": (32, 32, 3, 3)},
        {"Encoder.0.layers.²²²²²²²²².main.0.main.0.weight": (), "encoders.0.9.main.0.weight": (10**30,)},
        {f"Encoder.0.layers.{block}.main.0.main.0.weight": (32, 32, 3, 3) for block in range(100_000)},
        {"encoders.0.0.conv1.weight": (64, 32, 1, 1), "intro.weight": (32, 3, 3, 3), "decoders.0.0.conv1.weight": (64, 32, 1, 1)},
    ],
    ids=["empty", "odd", "one", "digits", "many", "foreign"],
)
def test_foreign_weights_are_not_taken_for_its_own(shapes):
    assert ARCH.read(shapes) is None


def test_official_has_no_batchnorm_to_leave_out():
    with pytest.raises(UsageError, match="the official network has no batch normalisation: leave 'batchnorm' out"):
        parse_config("mimounet", {"batchnorm": False})
