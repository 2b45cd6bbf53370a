import json

import pytest
import torch
import torch.nn.functional as F

from models.arch import build, load_arch
from models.pyramid import pyramid
from models.restore import restore
from tests.models.helpers import image, small

ARCH = load_arch("srn")


def published_shapes(fine, middle, coarse):
    shapes = {}

    def conv(name, incoming, width, transposed=False):
        shapes[f"{name}.weight"] = (incoming, width, 5, 5) if transposed else (width, incoming, 5, 5)
        shapes[f"{name}.bias"] = (width,)

    for block, incoming, width in (("inblock", 6, fine), ("eblock1", fine, middle), ("eblock2", middle, coarse)):
        conv(f"{block}.conv.0", incoming, width)
    for block, incoming, width in (("dblock1", coarse, middle), ("dblock2", middle, fine)):
        conv(f"{block}.deconv.0", incoming, width, transposed=True)
    conv("convlstm.conv", 2 * coarse, 4 * coarse)
    conv("outblock.conv.0", fine, 3)
    widths = {"inblock": fine, "eblock1": middle, "eblock2": coarse, "dblock1": coarse, "dblock2": middle, "outblock": fine}
    for block, width in widths.items():
        for index in range(3):
            conv(f"{block}.resblock_stack.{index}.conv1.0", width, width)
            conv(f"{block}.resblock_stack.{index}.conv2.0", width, width)
    return shapes


def shapes_of(module):
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


def test_published_size_names_and_shapes():
    with torch.device("meta"):
        network = build("srn", {})
    shapes = shapes_of(ARCH.official(network))
    assert len(shapes) == 86
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 10_250_723
    assert shapes == published_shapes(32, 64, 128)


def plain_forward(w, images):
    """The published formulation, on a state dict: coarse to fine, full size first in and out."""

    def conv(name, v, stride=1):
        return F.conv2d(v, w[f"{name}.weight"], w[f"{name}.bias"], stride, 2)

    def stack(name, v):
        for index in range(3):
            block = f"{name}.resblock_stack.{index}"
            v = v + conv(f"{block}.conv2.0", F.relu(conv(f"{block}.conv1.0", v)))
        return v

    def encode(name, v, stride):
        return stack(name, F.relu(conv(f"{name}.conv.0", v, stride)))

    def decode(name, v):
        v = stack(name, v)
        return F.relu(F.conv_transpose2d(v, w[f"{name}.deconv.0.weight"], w[f"{name}.deconv.0.bias"], 2, 2, 1))

    def up(v):
        return F.interpolate(v, scale_factor=2, mode="bilinear", align_corners=False)

    restored, hidden, cell, outputs = torch.zeros_like(images[2]), None, None, []
    for blurred in reversed(images):
        fine = encode("inblock", torch.cat([blurred, restored], 1), 1)
        middle = encode("eblock1", fine, 2)
        coarse = encode("eblock2", middle, 2)
        hidden = torch.zeros_like(coarse) if hidden is None else up(hidden)
        cell = torch.zeros_like(coarse) if cell is None else up(cell)
        c = coarse.shape[1]
        gates = conv("convlstm.conv", torch.cat([coarse, hidden], 1))
        i, f, o = (torch.sigmoid(gates[:, k * c : (k + 1) * c]) for k in range(3))
        cell = f * cell + i * torch.tanh(gates[:, 3 * c :])
        hidden = o * torch.tanh(cell)
        image_out = conv("outblock.conv.0", stack("outblock", decode("dblock2", decode("dblock1", hidden) + middle) + fine))
        outputs.insert(0, image_out)
        restored = up(image_out)
    return outputs


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (32, 48)])
def test_computes_the_published_formulation(size):
    network = ARCH.official(small("srn"))
    images = [level * 2 - 1 for level in pyramid(image(*size, count=2), 3, "bilinear")]
    with torch.no_grad():
        found, expected = network(*images), plain_forward(network.state_dict(), images)
    assert [out.shape for out in found] == [level.shape for level in images]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_gradients_flow_through_the_scales():
    network = small("srn").train()
    lq = image(32, 32).requires_grad_()
    network.outputs(lq)[0][0, 0, 16, 16].backward()
    assert lq.grad.abs().amin(1).gt(0).float().mean() > 0.5  # one pixel of the full size sees far through the coarser ones


def test_restores_in_unit_range_from_successive_halves():
    network, lq = small("srn"), image(32, 48, count=2)
    with torch.no_grad():
        half = F.avg_pool2d(lq, 2)
        official = network.network(*(level * 2 - 1 for level in (lq, half, F.avg_pool2d(half, 2))))
        for found, expected in zip(network.outputs(lq), official, strict=True):
            torch.testing.assert_close(found, expected / 2 + 0.5, atol=1e-5, rtol=0)


def test_features_are_the_encoders_at_the_finest_scale():
    network = small("srn")
    seen = {}
    for name in ("inblock", "eblock1", "eblock2"):
        network.network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.setdefault(name, []).append(out))
    with torch.no_grad():
        features = network.features(image(32, 48))[1]
    assert all(len(outputs) == 3 for outputs in seen.values())
    assert all(torch.equal(feature, seen[name][2]) for name, feature in zip(("inblock", "eblock1", "eblock2"), features, strict=True))


def test_nothing_is_kept_between_calls():
    network = small("srn")
    with torch.no_grad():
        first = network(image(32, 48))
        before = {name: dict(vars(part)) for name, part in network.named_modules()}
        network(image(16, 16, count=3))
        assert {name: dict(vars(part)) for name, part in network.named_modules()} == before
        assert torch.equal(network(image(32, 48)), first)


def test_odd_sizes_repeat_the_border():
    network, lq = small("srn"), image(25, 30)
    with torch.no_grad():
        expected = network(F.pad(lq, (0, 2, 0, 7), mode="replicate"))[..., :25, :30]
    assert torch.equal(restore(network, lq), expected)


@pytest.mark.parametrize("channels", [(32, 64, 128), (8, 16, 32), (5, 6, 7)])
def test_configuration_is_read_from_the_weights(channels):
    shapes = published_shapes(*channels)
    assert json.loads(json.dumps(ARCH.read(shapes))) == {"channels": list(channels)}
    most = {name: shape for index, (name, shape) in enumerate(sorted(shapes.items())) if index % 4}
    assert ARCH.read(most) == {"channels": list(channels)}
    damaged = {**shapes, "inblock.conv.0.weight": (99, 6, 5, 5), "eblock2.conv.0.bias": ()}
    assert ARCH.read(damaged) == {"channels": list(channels)}
    with torch.device("meta"):
        assert shapes_of(build("srn", {"channels": channels}).network) == shapes


@pytest.mark.parametrize("shapes", [{}, {"": ()}, {"inblock.conv.0.weight": (32, 6, 5, 5)}, {"module.inblock.conv.0.bias": (32,)}])
def test_foreign_weights_are_not_taken_for_its_own(shapes):
    assert ARCH.read(shapes) is None
