"""Optimizers, clipping and precision as the published recipes ask for them."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline.errors import StageFailed, UsageError
from tests.train.toys import Stop, StopAt, ToyCrops, mse_loss, toy_config, toy_network, train_toy, weights_of
from train.schedule import learning_rate

CPU = not torch.cuda.is_available()


def by_hand(config, optimizer, network):
    """The training as a plain loop in torch."""
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        lq, gt = (torch.stack([torch.from_numpy(ToyCrops()[step * config.batch + i][j]) for i in range(config.batch)]) for j in (0, 1))
        optimizer.zero_grad()
        mse_loss(network, lq, gt)[0].backward()
        optimizer.step()
    return weights_of(network)


@pytest.mark.parametrize("options", [{"optimizer": "adam"}, {"optimizer": "adam", "weight_decay": 0.5, "decay": "all"}], ids=str)
def test_adam_is_torch_s(tmp_path, options):
    config = toy_config(schedule="step", betas=(0.5, 0.999), clip=0.0, devices=1, amp="32-true", **options)
    trained, _ = train_toy(tmp_path, config)
    network = toy_network()
    adam = torch.optim.Adam(network.parameters(), betas=(0.5, 0.999), weight_decay=options.get("weight_decay", 0.0))
    expected = by_hand(config, adam, network)
    assert torch.allclose(weights_of(trained), expected, atol=2e-6)
    adamw = torch.optim.AdamW((other := toy_network()).parameters(), betas=(0.5, 0.999), weight_decay=0.5)
    assert not torch.allclose(by_hand(config, adamw, other), expected, atol=1e-3)


def test_adamw_over_all_weights_is_torch_s(tmp_path):
    config = toy_config(weight_decay=0.5, decay="all", clip=0.0, devices=1, amp="32-true")
    trained, _ = train_toy(tmp_path / "all", config)
    network = toy_network()
    expected = by_hand(config, torch.optim.AdamW(network.parameters(), betas=config.betas, weight_decay=0.5), network)
    assert torch.allclose(weights_of(trained), expected, atol=2e-6)
    matrices, _ = train_toy(tmp_path / "matrices", config.model_copy(update={"decay": "matrices"}))
    assert not torch.allclose(weights_of(matrices), expected, atol=1e-4)


def first_gradients(workdir, config):
    """The gradients that the first optimizer step uses, by the names of the weights."""
    network, found = toy_network(), {}
    names = {id(p): name for name, p in network.named_parameters()}

    def keep(optimizer, args, kwargs):
        found.update({names[id(p)]: p.grad.clone() for group in optimizer.param_groups for p in group["params"]})

    handle = register_optimizer_step_pre_hook(keep)
    try:
        train_toy(workdir, config, network)
    finally:
        handle.remove()
    return found


def test_clip_only_leaves_other_gradients_alone(tmp_path):
    plain = first_gradients(tmp_path / "plain", toy_config(steps=1, clip=0.0))
    clipped = first_gradients(tmp_path / "clipped", toy_config(steps=1, clip=1e-4, clip_only="network.down.*"))
    down = [name for name in plain if name.startswith("down.")]
    assert len(down) == 2
    norm = torch.stack([plain[n].norm() for n in down]).norm()
    assert norm > 1e-3
    for name, gradient in plain.items():
        expected = gradient * (1e-4 / norm) if name in down else gradient
        assert torch.allclose(clipped[name], expected, rtol=1e-2, atol=0), name
        assert torch.equal(clipped[name], gradient) == (name not in down)


def test_a_clipped_name_that_nothing_has_is_refused(tmp_path):
    with pytest.raises(UsageError) as e:
        train_toy(tmp_path, toy_config(clip_only="*lstm*"))
    assert str(e.value).splitlines() == [
        "toy: train.clip_only: '*lstm*' is the name of no weight that is trained",
        "hint: match names such as 'network.first.weight'",
    ]


@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"decay": "all"}, {"clip_only": "*down*"}], ids=str)
def test_bf16_trains_with_every_optimizer(tmp_path, options):
    half, _ = train_toy(tmp_path / "half", toy_config(amp="bf16-mixed", **options))
    full, _ = train_toy(tmp_path / "full", toy_config(amp="32-true", **options))
    change = weights_of(full) - weights_of(toy_network())
    assert not torch.equal(weights_of(half), weights_of(full))
    assert (weights_of(half) - weights_of(full)).norm() < 0.3 * change.norm()
    assert all(p.dtype == torch.float32 for p in half.parameters())


@pytest.mark.skipif(not CPU, reason="a GPU has it")
def test_half_precision_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(UsageError) as e:
        train_toy(tmp_path, toy_config(amp="16-mixed"))
    wanted = "train.amp: 16-mixed needs a GPU, and there is none\nhint: use bf16-mixed, which CPUs have too, or auto"
    assert str(e.value) == wanted


@pytest.fixture
def half_on_the_cpu(monkeypatch):
    """16-mixed as on a GPU, scaler and all; torch's CPU kernels have it, too, if slowly."""

    def fabric(config):
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu")])

    monkeypatch.setattr("train.launch.make_fabric", fabric)


def loud_loss(network, lq, gt):
    loss, scalars = mse_loss(network, lq, gt)
    return 30 * loss, scalars  # times 65536, the first scale, more than float16 holds


def test_half_precision_lowers_its_scale_and_resumes_exactly(tmp_path, half_on_the_cpu):
    config = toy_config(amp="16-mixed", checkpoint_steps=1)
    whole, _ = train_toy(tmp_path / "whole", config, loss=loud_loss)
    with pytest.raises(Stop):
        train_toy(tmp_path / "cut", config, loss=loud_loss, dataset=StopAt(24))
    scale = torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)["precision"]["scale"]
    assert 1 < scale < 65536
    resumed, report = train_toy(tmp_path / "cut", config, loss=loud_loss)
    assert report.resumed_at == 6
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert not torch.equal(weights_of(whole), weights_of(toy_network()))


def test_half_precision_that_never_fits_is_an_error(tmp_path, half_on_the_cpu):
    def endless(network, lq, gt):
        loss, scalars = mse_loss(network, lq, gt)
        return 1e30 * loss, scalars

    with pytest.raises(StageFailed, match="the gradient's norm nan in step 16 of 30"):  # 2^16 has been halved to 1
        train_toy(tmp_path, toy_config(amp="16-mixed", steps=30), loss=endless)
