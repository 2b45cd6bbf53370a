"""Adversarial training: the critic's steps, what they leave alone, and that an interrupted training goes on exactly."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.fabric import Fabric
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pipeline.errors import StageFailed
from tests.train.toys import (
    Stop,
    StopAt,
    ToyAdversary,
    ToyCrops,
    ToySource,
    Words,
    mse_loss,
    toy_config,
    toy_network,
    train_toy,
    train_with_critic,
    weights_of,
)
from train.adversary import CriticTraining, Remembered, describe
from train.recover import train_alone


def same(a, b):
    return torch.equal(weights_of(a), weights_of(b))


def batch(first=0, count=4):
    return tuple(torch.stack([torch.from_numpy(ToyCrops()[k][i]) for k in range(first, first + count)]) for i in (0, 1))


def started(adversary):
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return CriticTraining(adversary, fabric, torch.contiguous_format)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"ema": 0.9}, {"amp": "bf16-mixed"}], ids=str)
def test_a_critic_that_is_not_asked_changes_nothing(tmp_path, options):
    alone, _ = train_toy(tmp_path / "alone", toy_config(**options), toy_network(dropout=0.2, norm=True))
    adversary = ToyAdversary(steps=3)
    watched, _ = train_toy(tmp_path / "watched", toy_config(**options), toy_network(dropout=0.2, norm=True), adversary=adversary)
    assert same(alone, watched)
    assert not same(adversary.critic, ToyAdversary().critic)


def test_the_critic_s_steps_leave_the_network_as_it_is():
    network, training = toy_network(dropout=0.2, norm=True).train(), started(ToyAdversary())
    mse_loss(network, *batch())[0].backward()
    weights, gradients = weights_of(network), [p.grad.clone() for p in network.parameters()]
    before = weights_of(training.critic)
    training.step(network, [batch(4), batch(8)], 1.0, (1, 2))
    assert torch.equal(weights_of(network), weights)  # running statistics included
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), gradients, strict=True))
    assert not torch.equal(weights_of(training.critic), before)
    assert all(p.grad is None for p in training.critic.parameters())


def test_the_network_s_term_leaves_no_gradient_in_the_critic():
    network, training = toy_network(), started(ToyAdversary())
    lq, _ = batch()
    with training.frozen():
        loss = -training.critic(network(lq)).mean()
    loss.backward()
    assert all(p.grad is None and p.requires_grad for p in training.critic.parameters())
    assert all(p.grad is not None for p in network.parameters())


def test_the_network_learns_from_the_critic(tmp_path):
    plain, _ = train_toy(tmp_path / "plain")
    pleasing, report = train_with_critic(tmp_path / "pleasing", ToyAdversary())
    assert not same(plain, pleasing)
    assert set(report.scalars) == {"loss", "mse", "lr", "critic_loss", "critic_distance", "critic_norm"}


def test_the_critic_s_steps_are_torch_s(tmp_path):
    config = toy_config(steps=1, batch=8, accumulate=2, amp="32-true", lr=1e-2, min_lr=0, warmup=0.0, schedule="step")
    adversary, network, by_hand = ToyAdversary(steps=4, random=False), toy_network(), ToyAdversary(random=False)
    adam = torch.optim.Adam(by_hand.critic.parameters(), lr=by_hand.lr, betas=by_hand.betas)
    with torch.no_grad():
        restored = toy_network()(batch(count=8)[0])
    for _ in range(4):
        adam.zero_grad()
        by_hand.loss(lambda lq: restored, *batch(count=8))[0].backward()
        adam.step()
    train_with_critic(tmp_path, adversary, config, network)
    assert torch.allclose(weights_of(adversary.critic), weights_of(by_hand.critic), atol=1e-5)
    assert (weights_of(by_hand.critic) - weights_of(ToyAdversary().critic)).abs().max() > 1e-2


def test_the_critic_s_rate_follows_the_schedule(tmp_path):
    rates, adversary = [], ToyAdversary(steps=2, lr=5e-3)

    def keep(optimizer, args, kwargs):
        if optimizer.param_groups[0]["params"][0] is adversary.critic[0].weight:
            rates.append(optimizer.param_groups[0]["lr"])

    handle = register_optimizer_step_pre_hook(keep)
    try:
        train_with_critic(
            tmp_path, adversary, toy_config(steps=3, schedule="step", step_factor=0.1, min_lr=0.0, warmup=0.0, step_every=0.3)
        )
    finally:
        handle.remove()
    assert rates == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "ema": 0.9}, {"amp": "bf16-mixed"}], ids=str)
def test_resume_is_exact(tmp_path, options):
    config = toy_config(checkpoint_steps=3, **options)
    critics = [ToyAdversary() for _ in range(3)]
    whole, _ = train_with_critic(tmp_path / "whole", critics[0], config, toy_network(dropout=0.2, norm=True))
    with pytest.raises(Stop):
        train_with_critic(tmp_path / "cut", critics[1], config, toy_network(dropout=0.2, norm=True), dataset=StopAt(32))
    resumed, report = train_with_critic(tmp_path / "cut", critics[2], config, toy_network(dropout=0.2, norm=True))
    assert report.resumed_at == 6
    assert same(whole, resumed)
    assert same(critics[0].critic, critics[2].critic)
    assert not same(critics[0].critic, critics[1].critic)


def test_a_finished_training_is_reloaded_with_its_critic(tmp_path):
    first, second = ToyAdversary(), ToyAdversary()
    train_with_critic(tmp_path, first)
    words = Words()
    train_with_critic(tmp_path, second, progress=words)
    assert words.lines == ["toy: already trained (12 steps)"]
    assert same(first.critic, second.critic)
    assert not second.critic.training


@pytest.mark.parametrize("change", [{"lr": 1e-3}, {"steps": 3}, {"penalty": 2.0}, {"random": False}, {"width": 5}], ids=str)
def test_another_adversary_starts_anew(tmp_path, change):
    train_with_critic(tmp_path, ToyAdversary(), toy_config(steps=2))
    words = Words()
    _, report = train_with_critic(tmp_path, ToyAdversary(**change), toy_config(steps=2), progress=words)
    assert words.lines == ["toy: checkpoint.pt belongs to another training: this one starts anew"]
    assert report.resumed_at == 0


def test_a_description_tells_settings_and_shapes_apart_from_weights():
    assert describe(ToyAdversary()) == describe(ToyAdversary())
    assert "('penalty', '1.0')" in describe(ToyAdversary())
    assert "(4, 3, 3, 3)" in describe(ToyAdversary())
    assert " at 0x" not in describe(ToyAdversary())


@pytest.mark.parametrize("amp", ["32-true", "bf16-mixed"])
def test_the_critic_works_in_float32_on_outputs_that_are_computed_once(tmp_path, amp):
    calls, dtypes = [], set()

    class Watching(ToyAdversary):
        def loss(self, network, lq, gt):
            assert not torch.is_autocast_enabled("cpu")
            assert network(lq) is network(lq)
            dtypes.add((network(lq).dtype, self.critic(gt).dtype))
            return super().loss(network, lq, gt)

    network = toy_network()
    network.first.register_forward_hook(lambda module, args, out: calls.append((torch.is_grad_enabled(), out.dtype)))
    train_with_critic(tmp_path, Watching(steps=5), toy_config(steps=2, accumulate=2, amp=amp), network)
    assert dtypes == {(torch.float32, torch.float32)}
    inner = torch.bfloat16 if amp == "bf16-mixed" else torch.float32
    assert calls == [(False, inner), (False, inner), (True, inner), (True, inner)] * 2  # two parts for the critic, two for the network


def test_remembered_outputs_belong_to_their_inputs():
    network = toy_network()
    outputs = Remembered(network, torch.no_grad)
    a, b = batch(0)[0], batch(4)[0]
    with torch.no_grad():
        assert torch.equal(outputs(a), network(a))
        assert torch.equal(outputs(b), network(b))
    assert outputs(a) is outputs(a)
    assert not outputs(a).requires_grad
    assert not list(outputs.parameters())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_critic_s_loss_that_is_not_finite_names_the_step(tmp_path, bad):
    class Broken(ToyAdversary):
        calls = 0

        def loss(self, network, lq, gt):
            loss, scalars = super().loss(network, lq, gt)
            self.calls += 1
            return (loss * bad if self.calls == 4 else loss), scalars

    with pytest.raises(StageFailed) as e:
        train_with_critic(tmp_path, Broken(), toy_config(checkpoint_steps=1))
    assert str(e.value).startswith("toy: the critic's loss is ")
    assert str(e.value).endswith("in step 1 of 12\nhint: lower its learning rate (the adversary's lr is 0.005)")
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"] == 1


def test_train_alone_trains_with_an_adversary(tmp_path):
    adversary, config = ToyAdversary(), toy_config(steps=3, seed=None)
    report = train_alone(toy_network(), mse_loss, ToySource(), config, tmp_path, Words(), 7, label="toy", adversary=adversary)
    assert report.steps == 3
    assert not same(adversary.critic, ToyAdversary().critic)
