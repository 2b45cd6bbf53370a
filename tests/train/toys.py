"""A tiny restoration task: a network, a data set and a training of them, importable by the processes that tests start."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from train.config import TrainConfig
from train.determinism import seeded
from train.job import FitReport
from train.loop import fit
from train.losses import LOSSES
from train.phases import phases

SIDE = 16


class ToyNet(nn.Module):
    """Two convolutions and a residual; ``dropout`` makes it depend on random numbers, ``norm`` gives it running statistics."""

    size_multiple = 2

    def __init__(self, width=8, dropout=0.0, norm=False):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.down = nn.Conv2d(width, 2 * width, 2, 2)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def features(self, lq):
        fine = self.drop(self.norm(self.first(lq).relu()))
        coarse = self.down(fine)
        merged = fine + nn.functional.pixel_shuffle(torch.cat([coarse, coarse], 1), 2)
        return lq + self.last(merged), [fine, coarse]

    def forward(self, lq):
        return self.features(lq)[0]


class ToyCrops:
    """Box-blurred noise and the noise, from k alone."""

    def __init__(self, delay=0.0, side=SIDE):
        self.delay, self.side = delay, side

    def __getitem__(self, k):
        time.sleep(self.delay)
        gt = np.random.default_rng(k).random((3, self.side, self.side), np.float32)
        lq = (gt + np.roll(gt, 1, 1) + np.roll(gt, 1, 2)) / 3
        return lq.astype(np.float32), gt


class Stop(Exception):
    """Ends a training in its middle."""


class StopAt(ToyCrops):
    """Toy crops that end the training where sample ``sample`` is asked for."""

    def __init__(self, sample):
        super().__init__()
        self.sample = sample

    def __getitem__(self, k):
        if k >= self.sample:
            raise Stop
        return super().__getitem__(k)


class PhasedCrops(ToyCrops):
    """Crops whose size follows the training's phases; remembers which were asked for."""

    def __init__(self, config):
        super().__init__()
        self.phases, self.asked = phases(config), []

    def __getitem__(self, k):
        self.asked.append(k)
        self.side = next(phase.crop for phase in reversed(self.phases) if phase.sample <= k)
        return super().__getitem__(k)


class ToyAdversary:
    """A tiny critic with a gradient penalty: at random points between the images (WGAN-GP), or at the sharp ones, nothing random."""

    def __init__(self, steps=2, lr=5e-3, penalty=1.0, random=True, width=4):
        self.steps, self.lr, self.betas, self.penalty, self.random = steps, lr, (0.5, 0.9), penalty, random
        with seeded("toy critic"):
            self.critic = nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3))

    def loss(self, network, lq, gt):
        fake = network(lq)
        share = torch.rand(len(gt), 1, 1, 1) if self.random else torch.ones(len(gt), 1, 1, 1)
        between = (share * gt + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        distance = self.critic(gt).mean() - self.critic(fake).mean()
        return self.penalty * penalty - distance, {"distance": distance}


class PleaseTheCritic:
    """Mean squared error, and what the critic says of the output."""

    def __init__(self, adversary):
        self.critic = adversary.critic

    def __call__(self, network, lq, gt):
        output = network(lq)
        mse = LOSSES["mse"](output, gt)
        return mse - 0.01 * self.critic(output).mean(), {"mse": mse}


class ToySource:
    """A few pairs as a PairSource."""

    def __init__(self, count=3, side=40):
        self.count, self.side = count, side

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        from pipeline.contract import Pair

        gt = np.random.default_rng(index).integers(0, 256, (self.side, self.side, 3), np.uint8)
        lq = ((gt.astype(int) + np.roll(gt, 1, 1)) // 2).astype(np.uint8)
        return Pair(lq, gt, f"pair{index}", f"scene{index}")

    def digest(self):
        return "0" * 64

    def scenes(self):
        return {f"scene{i}": f"{i:064d}" for i in range(self.count)}


class Words:
    """A Progress that remembers."""

    def __init__(self):
        self.lines, self.updates = [], []

    def log(self, text):
        self.lines.append(text)

    def update(self, label, done, total, **scalars):
        self.updates.append((label, done, total, scalars))


def mse_loss(network, lq, gt):
    loss = LOSSES["mse"](network(lq), gt)
    return loss, {"mse": loss}


def toy_config(**changes):
    defaults = {"steps": 12, "batch": 4, "crop": SIDE, "lr": 1e-2, "seed": 5, "checkpoint_seconds": 1e9}
    return TrainConfig(**{**defaults, **changes})


def toy_network(**options):
    with seeded("toy network"):
        return ToyNet(**options)


def train_toy(workdir, config=None, network=None, progress=None, dataset=None, loss=mse_loss, **options) -> tuple[nn.Module, FitReport]:
    network = network or toy_network()
    report = fit(network, loss, dataset or ToyCrops(), config or toy_config(), Path(workdir), progress or Words(), label="toy", **options)
    return network, report


def train_with_critic(workdir, adversary, config=None, network=None, **options) -> tuple[nn.Module, FitReport]:
    return train_toy(workdir, config, network, loss=PleaseTheCritic(adversary), adversary=adversary, **options)


def weights_of(network):
    return torch.cat([t.detach().flatten().double() for t in network.state_dict().values()])


def main():
    """``toys.py WORKDIR OUT JSON``: train with the configuration JSON; process 0 writes the weights and the first gradients.

    With ``adversary`` (options of ToyAdversary) in the JSON these are the critic's, and then the network's.
    """
    workdir, out, text = sys.argv[1:4]
    options = json.loads(text)
    network = toy_network(**options.pop("network", {}))
    dataset = ToyCrops(options.pop("delay", 0.0))
    adversary = ToyAdversary(**options.pop("adversary")) if "adversary" in options else None
    gradients = {}

    def keep(optimizer, args, kwargs):
        gradients.setdefault(id(optimizer), [p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    register_optimizer_step_pre_hook(keep)
    if adversary is None:
        train_toy(workdir, toy_config(**options), network, dataset=dataset)
        critic = {}
    else:
        train_with_critic(workdir, adversary, toy_config(**options), network, dataset=dataset)
        critic = adversary.critic.state_dict()
    if os.environ.get("RANK", "0") == "0":
        torch.save({"weights": network.state_dict(), "critic": critic, "gradients": [*gradients.values()]}, out)


if __name__ == "__main__":
    main()
