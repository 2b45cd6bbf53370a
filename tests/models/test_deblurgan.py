import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.arch import build, load_arch
from models.deblurgan.norm import InstanceNorm2d
from models.export import export_onnx
from tests.models.helpers import image, lively, small

ARCH = load_arch("deblurgan")
DEFAULTS = {"variant": "resnet", "ngf": 64, "n_blocks": 9, "use_dropout": True, "convs": 2}
SMALL = {"ngf": 4, "n_blocks": 2}


def with_buffers(network):
    generator = torch.Generator().manual_seed(1)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3, generator=generator)
        if name.endswith("running_var"):
            buffer.uniform_(0.05, 0.5, generator=generator)
    return network


def generator_of(**config):
    """A small official generator in eval mode, with buffers unlike any image's statistics."""
    return with_buffers(small("deblurgan", **config)).network


def signed(height, width, count=1):
    return 2 * image(height, width, count) - 1


def shapes_of(config):
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build("deblurgan", config).network.state_dict().items()}


def published_names(second, n_blocks=9):
    """Convolutions and normalisations of the published files; ``second``: place of a block's second convolution, if it has one."""
    last = 10 + n_blocks
    sizes = {"1": (64, 3, 7, 7), "4": (128, 64, 3, 3), "7": (256, 128, 3, 3), f"{last + 7}": (3, 64, 7, 7)}
    norms = {"2": 64, "5": 128, "8": 256, f"{last + 1}": 128, f"{last + 4}": 64}
    for block in range(10, last):
        for place in (1, second) if second else (1,):
            sizes[f"{block}.conv_block.{place}"] = (256, 256, 3, 3)
            norms[f"{block}.conv_block.{place + 1}"] = 256
    names = {f"model.{k}.weight": v for k, v in sizes.items()} | {f"model.{k}.bias": (v[0],) for k, v in sizes.items()}
    names |= {f"model.{last}.weight": (256, 128, 3, 3), f"model.{last}.bias": (128,)}  # transposed: [in, out, 3, 3]
    names |= {f"model.{last + 3}.weight": (128, 64, 3, 3), f"model.{last + 3}.bias": (64,)}
    for name, width in norms.items():
        names |= {f"model.{name}.running_mean": (width,), f"model.{name}.running_var": (width,), f"model.{name}.num_batches_tracked": ()}
    return names


@pytest.mark.parametrize(
    ("config", "second", "parameters", "tensors"),
    [
        ({}, 6, 11_378_179, 117),
        ({"use_dropout": False}, 5, 11_378_179, 117),
        ({"convs": 1}, None, 6_067_459, 72),
        ({"convs": 1, "use_dropout": False}, None, 6_067_459, 72),
        ({"n_blocks": 6}, 6, 7_837_699, 87),
    ],
)
def test_published_names_shapes_and_sizes(config, second, parameters, tensors):
    shapes = shapes_of(config)
    assert shapes == published_names(second, config.get("n_blocks", 9))
    assert len(shapes) == tensors
    with torch.device("meta"):
        assert sum(p.numel() for p in build("deblurgan", config).parameters()) == parameters


def reference(state, x, convs, dropout, running, blocks=2):
    """The published formula in plain operators."""

    def norm(y, name):
        if running:
            mean, var = state[f"{name}.running_mean"].view(1, -1, 1, 1), state[f"{name}.running_var"].view(1, -1, 1, 1)
        else:
            mean, var = y.mean((2, 3), keepdim=True), y.var((2, 3), keepdim=True, unbiased=False)
        return (y - mean) / (var + 1e-5).sqrt()

    def conv(y, name, reflect=0, **how):
        return F.conv2d(F.pad(y, (reflect,) * 4, mode="reflect"), state[f"{name}.weight"], state[f"{name}.bias"], **how)

    y = norm(conv(x, "model.1", 3), "model.2").relu()
    y = norm(conv(y, "model.4", stride=2, padding=1), "model.5").relu()
    y = norm(conv(y, "model.7", stride=2, padding=1), "model.8").relu()
    for i in range(10, 10 + blocks):
        block, second = f"model.{i}.conv_block", 6 if dropout else 5
        branch = norm(conv(y, f"{block}.1", 1), f"{block}.2")
        if convs == 2:
            branch = norm(conv(branch.relu(), f"{block}.{second}", 1), f"{block}.{second + 1}")
        elif dropout:
            branch = branch.relu()
        y = y + branch
    for i in (10 + blocks, 13 + blocks):
        up = F.conv_transpose2d(y, state[f"model.{i}.weight"], state[f"model.{i}.bias"], stride=2, padding=1, output_padding=1)
        y = norm(up, f"model.{i + 1}").relu()
    return (x + conv(y, f"model.{17 + blocks}", 3).tanh()).clamp(-1, 1)


@pytest.mark.parametrize("statistics", ["instance", "running"])
@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("convs", [1, 2])
def test_computes_the_published_formula(convs, dropout, statistics):
    network, x = generator_of(convs=convs, use_dropout=dropout, statistics=statistics), signed(24, 36, count=2)
    with torch.no_grad():
        expected = reference(network.state_dict(), x, convs, dropout, statistics == "running")
        torch.testing.assert_close(network(x), expected, atol=2e-5, rtol=0)


def test_instance_statistics_ignore_the_buffers_and_running_ones_use_them():
    x = signed(24, 24)
    for statistics, moved in (("instance", False), ("running", True)):
        network = generator_of(statistics=statistics)
        with torch.no_grad():
            before = network(x)
            for name, buffer in network.named_buffers():
                if "running" in name:
                    buffer.add_(0.2)
            assert torch.equal(network(x), before) != moved


@pytest.mark.parametrize("statistics", ["instance", "running"])
def test_images_of_a_batch_do_not_touch_one_another(statistics):
    network, x = generator_of(statistics=statistics), signed(32, 24, count=2)
    with torch.no_grad():
        torch.testing.assert_close(network(x), torch.cat([network(x[:1]), network(x[1:])]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("statistics", ["instance", "running"])
def test_normalisation_trains_as_torchs(statistics):
    ours, theirs = InstanceNorm2d(5, statistics), nn.InstanceNorm2d(5, track_running_stats=True)
    for step in range(3):
        x = torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(step)) + step
        torch.testing.assert_close(ours(x), theirs(x), atol=0, rtol=0)
    assert ours.running_mean.abs().max() > 0.1
    for name, buffer in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], buffer)
    if statistics == "running":
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-6, rtol=0)


def test_eval_mode_changes_no_buffer():
    network = generator_of()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(signed(16, 16))
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_a_single_pixel_is_not_normalised_by_its_own_statistics():
    norm, x = InstanceNorm2d(3), torch.randn(2, 3, 1, 1)
    assert torch.equal(norm(x), x)
    assert torch.equal(norm.eval()(x), x)
    assert norm.running_mean.abs().max() == 0


def test_dropout_acts_in_training_only():
    network, x = generator_of(use_dropout=True), signed(16, 16)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_released_weights_need_no_counter():
    source, target = generator_of(), generator_of()
    state = {name: tensor + 0.1 for name, tensor in source.state_dict().items() if "num_batches" not in name}
    target.load_state_dict(state, strict=True)
    assert torch.equal(target.model[1].weight, source.model[1].weight + 0.1)


def test_adapter_maps_the_range_and_takes_sides_of_four():
    adapter, lq = small("deblurgan"), image(16, 24)
    assert ARCH.official(adapter) is adapter.network
    with torch.no_grad():
        torch.testing.assert_close(adapter(lq), adapter.network(2 * lq - 1) / 2 + 0.5)
        tiny = image(4, 12)
        torch.testing.assert_close(adapter(tiny), adapter(F.pad(tiny, (0, 0, 0, 4), mode="replicate"))[:, :, :4])
        out = adapter(3 * lq - 1)
    assert out.min() == 0
    assert out.max() == 1


@pytest.mark.parametrize(("statistics", "normalisations"), [("instance", 9), ("running", 0)])
def test_running_statistics_fold_into_the_exported_convolutions(statistics, normalisations, tmp_path):
    import onnx

    export_onnx(small("deblurgan", statistics=statistics), tmp_path / "a.onnx", height=16, width=24)
    operators = [node.op_type for node in onnx.load(str(tmp_path / "a.onnx")).graph.node]
    assert operators.count("InstanceNormalization") == normalisations
    assert not {"BatchNormalization", "Shape", "Slice"} & set(operators)


@pytest.mark.parametrize("n_blocks", [1, 6, 9])
@pytest.mark.parametrize(("convs", "dropout"), [(2, True), (2, False), (1, True)])
def test_reads_the_configuration_from_the_weights(n_blocks, convs, dropout):
    config = {"variant": "resnet", "ngf": 16, "n_blocks": n_blocks, "use_dropout": dropout, "convs": convs}
    shapes = {name: shape for name, shape in shapes_of(config).items() if "num_batches" not in name}
    assert ARCH.read(shapes) == config
    assert shapes_of(ARCH.read(shapes)) == shapes_of(config)


def test_reads_the_default_and_the_feature_pyramid():
    assert ARCH.read(shapes_of({})) == DEFAULTS
    config = {"variant": "fpn_unet", "ngf": 8}
    assert ARCH.read(shapes_of(config)) == config


@pytest.mark.parametrize("missing", ["model.1.", "model.26.", "model.14.", "model.10.conv_block.6.", "running_"])
def test_reads_incomplete_weights(missing):
    assert ARCH.read({name: shape for name, shape in shapes_of({}).items() if missing not in name}) == DEFAULTS


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"model.10.conv_block.1.weight": ()},
        {"model.10.conv_block.1.weight": (0, 0, 3, 3)},
        {"model.1.weight": (64, 3, 7, 7)},
        {"pyramid.reduce.weight": (3,)},
        {"model.0.weight": (64, 3, 4, 4), "model.2.weight": (128, 64, 4, 4)},
        {"intro.weight": (32, 3, 3, 3), "ending.bias": (3,)},
        {"model.10.conv_block.1.weight": (256, 256, 3, 3), **{f"layer{i}.weight": (8, 8) for i in range(9)}},
    ],
)
def test_reads_nothing_from_other_weights(shapes):
    assert ARCH.read(shapes) is None


def test_starts_as_published():
    torch.manual_seed(0)
    network = build("deblurgan", {"ngf": 32}).network
    assert abs(float(network.model[26].weight.detach().std()) - 0.02) < 1e-3
    assert abs(float(network.model[19].weight.detach().std()) - 0.02) < 1e-3
    assert network.model[1].bias.abs().max() == 0


def test_statistics_survive_the_configuration():
    for config in ({"statistics": "running"}, {"variant": "fpn_unet", "statistics": "running"}, {"convs": 1, "use_dropout": True}):
        found = ARCH.config_of(lively(build("deblurgan", SMALL | config)))
        assert found.items() >= config.items()
