from __future__ import annotations

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from tests.train.toys import ToyCrops, ToyNet, Words, toy_config
from train.adversarial import PatchAdversary, gradient_penalty
from train.config_losses import Adversarial, LossTerm
from train.determinism import seeded
from train.loop import fit
from train.terms import TermsLoss

SMALL = {"channels": 4, "layers": 1}


def adversary(double=True, **config):
    with seeded("critic"):
        made = PatchAdversary(Adversarial(**{**SMALL, **config}))
        for parameter in made.critic.parameters():  # fresh critics say almost nothing
            torch.nn.init.normal_(parameter, 0, 0.2)
    made.critic.double() if double else made.critic.float()
    return made


def toy():
    with seeded("toy"):
        return ToyNet()


def batch(dtype=torch.float64, side=16):
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.rand(2, 3, side, side, generator=generator, dtype=dtype) for _ in range(2))


def norm_of(parameters):
    return torch.cat([p.grad.flatten() for p in parameters]).norm().item()


def published(kind, critic, real, fake):
    """The published losses of the critic on images in [-1, 1], step by step; random points are drawn as the paper's code does."""
    of_fake, of_real = critic(fake), critic(real)
    if kind == "gan":
        a = F.binary_cross_entropy(torch.sigmoid(of_fake), torch.zeros_like(of_fake))
        b = F.binary_cross_entropy(torch.sigmoid(of_real), torch.ones_like(of_real))
        return (a + b) / 2
    if kind == "lsgan":
        return (F.mse_loss(of_fake, torch.zeros_like(of_fake)) + F.mse_loss(of_real, torch.ones_like(of_real))) / 2
    alpha = torch.rand(1, 1, 1, 1, dtype=real.dtype).expand_as(real)
    between = (alpha * real + (1 - alpha) * fake).detach().requires_grad_()
    scores = critic(between)
    gradient = torch.autograd.grad(scores, between, torch.ones_like(scores), create_graph=True)[0]
    return of_fake.mean() - of_real.mean() + 10 * ((gradient.norm(2, dim=1) - 1) ** 2).mean()


@pytest.mark.parametrize("kind", ["wgan-gp", "gan", "lsgan"])
def test_the_critic_s_loss_and_gradient_are_the_published_ones(kind):
    ours, network = adversary(kind=kind), toy().double()
    lq, gt = batch()
    results = []
    for compute in (
        lambda: ours.loss(network, lq, gt)[0],
        lambda: published(kind, ours.critic, 2 * gt - 1, (2 * network(lq) - 1).detach()),
    ):
        ours.critic.zero_grad()
        torch.manual_seed(9)
        value = compute()
        value.backward()
        results.append((value.item(), norm_of(ours.critic.parameters())))
    assert results[0] == pytest.approx(results[1], rel=1e-10)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("kind", ["wgan-gp", "gan", "lsgan"])
def test_the_network_s_term_and_gradient_are_the_published_ones(kind):
    ours, network = adversary(kind=kind), toy().double()
    lq, _ = batch()

    def of_paper():
        scores = ours.critic(2 * network(lq) - 1)
        if kind == "gan":
            return F.binary_cross_entropy(torch.sigmoid(scores), torch.ones_like(scores))
        return F.mse_loss(scores, torch.ones_like(scores)) if kind == "lsgan" else -scores.mean()

    results = []
    for compute in (lambda: ours.network_term(network(lq)), of_paper):
        network.zero_grad()
        ours.critic.zero_grad()
        value = compute()
        value.backward()
        results.append((value.item(), norm_of(network.parameters())))
        if len(results) == 1:
            assert all(p.grad is None and p.requires_grad for p in ours.critic.parameters())
    assert results[0] == pytest.approx(results[1], rel=1e-10)


def test_the_loss_and_the_adversary_share_their_critic_in_other_processes_too():
    ours = adversary(double=False)
    loss, there = pickle.loads(pickle.dumps((TermsLoss((LossTerm(name="l1"),), ours), ours)))
    assert loss.adversary is there and loss.adversary.critic is there.critic


class Linear(torch.nn.Module):
    """Scores with a known gradient everywhere: the weighted sum of the colours."""

    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float64))

    def forward(self, image):
        return (image * self.weights.view(1, 3, 1, 1)).sum(dim=(1, 2, 3))


def test_the_penalty_of_a_known_gradient():
    real, fake = batch(side=4)
    critic = Linear([3.0, 0.0, 4.0])  # norm 5 at each of the 16 pixels, 20 per image
    assert gradient_penalty(critic, real, fake, "pixel").item() == pytest.approx((5 - 1) ** 2)
    assert gradient_penalty(critic, real, fake, "image").item() == pytest.approx((20 - 1) ** 2)
    gradient_penalty(critic, real, fake).backward()
    assert critic.weights.grad.tolist() == pytest.approx([2 * 4 * 3 / 5, 0, 2 * 4 * 4 / 5])
    flat = gradient_penalty(Linear([0.0, 0.0, 0.0]), real, fake)
    flat.backward()
    assert flat.item() == pytest.approx(1.0)


def test_images_get_random_points_of_their_own_or_share_one():
    class Square(torch.nn.Module):
        def forward(self, image):
            self.seen = image.detach()
            return image.square().sum()

    real, fake = torch.ones(4, 3, 2, 2), torch.zeros(4, 3, 2, 2)
    for over, count in (("pixel", 1), ("image", 4)):
        critic = Square()
        gradient_penalty(critic, real, fake, over)
        assert len(critic.seen.unique()) == count


def test_the_published_critic_is_the_default():
    default = PatchAdversary(Adversarial())
    assert sum(p.numel() for p in default.critic.parameters()) == 2_764_737
    assert (default.steps, default.lr, default.betas) == (5, 1e-4, (0.5, 0.999))
    wide = PatchAdversary(Adversarial(critic="article", channels=4))
    assert type(wide.critic).__name__ == "ArticlePatchGAN"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(bad):
    ours = adversary()
    lq, gt = batch()
    gt[0, 0, 0, 0] = bad
    assert not ours.loss(toy().double(), lq, gt)[0].isfinite()
    assert not ours.network_term(gt).isfinite()


def train(workdir, steps=12, **config):
    network, ours, words = toy(), adversary(double=False, channels=8, **config), Words()
    loss = TermsLoss((LossTerm(name="mse", weight=10),), ours)
    settings = toy_config(steps=steps, optimizer="adam", betas=(0.5, 0.999), lr=1e-3, checkpoint_steps=4)
    fit(network, loss, ToyCrops(), settings, workdir, words, label="toy", adversary=ours)
    return network, ours, words


@pytest.mark.parametrize("kind", ["wgan-gp", "gan", "lsgan"])
def test_the_loop_trains_both(tmp_path, kind):
    network, ours, words = train(tmp_path, kind=kind, steps=4, lr=1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(network.parameters(), toy().parameters(), strict=True))
    fresh = adversary(double=False, channels=8, kind=kind).critic
    assert all(not torch.equal(a, b) for (n, a), b in zip(ours.critic.named_parameters(), fresh.parameters(), strict=True) if "weight" in n)
    wanted = {"mse", "adversarial", "critic_loss"} | ({"critic_distance", "critic_penalty"} if kind == "wgan-gp" else set())
    assert wanted <= set(words.updates[-1][3])


def test_the_critic_comes_to_tell_sharp_from_blurred(tmp_path):
    network, ours, _ = train(tmp_path, kind="wgan-gp", steps=40, lr=2e-3, penalty=1.0)
    lq, gt = (torch.stack([torch.from_numpy(ToyCrops()[k][i]) for k in range(4)]) for i in range(2))
    with torch.no_grad():
        assert ours.critic(2 * gt - 1).mean() > ours.critic(2 * lq - 1).mean()
    assert network(lq).isfinite().all()
