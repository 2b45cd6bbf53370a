"""Every architecture in ``models/`` has the same shape and passes the same tests; nothing here names one."""

import json

import numpy as np
import pytest
import torch

from models import checkpoint
from models.arch import build, known_archs, load_arch
from models.export import export_onnx, fix_size
from models.fold import fold_batchnorm
from models.restore import restore
from tests.models.helpers import image, small

VARIANTS = {f"{name}-{variant}": (name, config) for name in known_archs() for variant, config in load_arch(name).variants.items()}
"""Small configurations besides each architecture's smallest."""

every_name = pytest.mark.parametrize("name", known_archs())
every_arch = pytest.mark.parametrize(
    ("name", "config"), [*((n, {}) for n in known_archs()), *VARIANTS.values()], ids=[*known_archs(), *VARIANTS]
)


def run(path, lq):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["restored"], {"lq": lq.numpy()})[0]


def test_there_are_architectures():
    assert {"nafnet", "student"} <= set(known_archs())


@every_name
def test_every_setting_is_described_and_unknown_ones_are_refused(name):
    model = load_arch(name).config
    assert model.model_config["extra"] == "forbid"
    for key, value in model.model_fields.items():
        assert value.description, key


@every_name
def test_default_configuration_round_trips(name):
    with torch.device("meta"):
        network = build(name, {})
        config = json.loads(json.dumps(load_arch(name).config_of(network)))
        again = build(name, config)
    assert load_arch(name).config_of(again) == config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}


@every_arch
@pytest.mark.parametrize(("high", "wide"), [(1, 1), (1, 4), (5, 3)])
def test_forward_keeps_the_shape_at_every_multiple(name, config, high, wide):
    network = small(name, **config)
    lq = image(high * network.size_multiple, wide * network.size_multiple, count=2)
    with torch.no_grad():
        out = network(lq)
    assert out.shape == lq.shape
    assert (out - lq).abs().max() > 0.01


@every_arch
def test_features_go_from_fine_to_coarse_beside_the_same_output(name, config):
    network = small(name, **config)
    lq = image(4 * network.size_multiple, 4 * network.size_multiple)
    with torch.no_grad():
        out, features = network.features(lq)
        assert torch.equal(out, network(lq))
    heights = [f.shape[2] for f in features]
    assert len(features) >= 3
    assert heights == sorted(set(heights), reverse=True)
    assert network.size_multiple % (lq.shape[2] // heights[-1]) == 0


@every_arch
def test_every_parameter_learns(name, config):
    network = small(name, **config).train()
    lq = image(4 * network.size_multiple, 4 * network.size_multiple, count=2)
    outputs = network.outputs(lq) if hasattr(network, "outputs") else [network(lq)]
    sum(out.square().mean() for out in outputs).backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None]
    assert not silent


@every_arch
def test_several_outputs_are_halves_of_one_another(name, config):
    network = small(name, **config)
    if not hasattr(network, "outputs"):
        return
    side = 4 * network.size_multiple
    with torch.no_grad():
        outputs = network.outputs(image(side, side))
        assert torch.equal(outputs[0], network(image(side, side)))
    assert [out.shape[2] for out in outputs] == [side >> i for i in range(len(outputs))]


@every_arch
@pytest.mark.parametrize("folded", [False, True])
def test_checkpoint_reloads_bit_for_bit(name, config, folded, tmp_path):
    network = fold_batchnorm(small(name, **config)) if folded else small(name, **config)
    checkpoint.save(tmp_path / "a.safetensors", network, name, history=[{"stage": "teach", "steps": 3}])
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    lq = image(2 * network.size_multiple, 3 * network.size_multiple)
    with torch.no_grad():
        assert torch.equal(loaded.module(lq), network(lq))
    assert not loaded.module.training
    assert loaded.arch == name
    assert loaded.config == load_arch(name).config_of(network)
    assert loaded.history == [{"stage": "teach", "steps": 3}]


@every_arch
@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 17)])
def test_restore_takes_any_size(name, config, size):
    assert restore(small(name, **config), image(*size)).shape == (1, 3, *size)


@every_arch
def test_folding_changes_nothing_but_rounding(name, config):
    network = small(name, **config)
    lq = image(4 * network.size_multiple, 5 * network.size_multiple)
    with torch.no_grad():
        assert (fold_batchnorm(network)(lq) - network(lq)).abs().max() <= 1e-5


@every_arch
def test_export_agrees_at_free_and_fixed_sizes(name, config, tmp_path):
    network = small(name, **config)
    m = network.size_multiple
    free, fixed, made_fixed = (tmp_path / f"{n}.onnx" for n in ("free", "fixed", "made_fixed"))
    export_onnx(network, free)
    export_onnx(network, fixed, height=5 * m, width=7 * m)
    fix_size(free, made_fixed, 5 * m, 7 * m)
    for path, sizes in ((free, [(1, 1), (5, 7), (11, 3)]), (fixed, [(5, 7)]), (made_fixed, [(5, 7)])):
        for high, wide in sizes:
            lq = image(high * m, wide * m)
            with torch.no_grad():
                np.testing.assert_allclose(run(path, lq), network(lq).numpy(), atol=1e-5, rtol=0)


@every_arch
def test_training_on_channels_last_gives_the_same_gradients(name, config):
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = small(name, **config).train().to(memory_format=memory_format)
        side = 4 * network.size_multiple
        network(image(side, side, count=2).to(memory_format=memory_format)).square().mean().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


@pytest.mark.slow
@every_name
def test_published_size_exports_with_parity(name, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(name, {}).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape))  # what starts at zero would hide the layers before it
    side = max(64, network.size_multiple)
    lq = image(side, 2 * side)
    export_onnx(network, tmp_path / "network.onnx")
    with torch.no_grad():
        wanted = network(lq).numpy()
    error = np.mean((run(tmp_path / "network.onnx", lq).astype(np.float64) - wanted) ** 2)
    assert np.abs(wanted - lq.numpy()).max() > 0.01
    assert 10 * np.log10(np.abs(wanted).max() ** 2 / error) >= 60
