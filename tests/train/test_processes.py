"""Trainings in processes of their own: killed ones, torchrun's, spawned ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.errors import StageFailed, UsageError
from tests.train.toys import ToyAdversary, ToyCrops, Words, toy_config, toy_network, train_toy, train_with_critic, weights_of
from train.loop import fit

TOYS = "tests.train.toys"


def environment():
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")])),
    }


def run_toys(workdir, out, options, launcher=()):
    command = [sys.executable, *launcher, "-m", TOYS, str(workdir), str(out), json.dumps(options)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def load(path):
    return torch.load(path, weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


PATCHES = [{"from": 0, "crop": 16}, {"from": 0.3, "crop": 16, "batch": 2}]


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    options = {"steps": 120, "ema": 0.9, "checkpoint_steps": 1, "network": {"dropout": 0.2, "norm": True}}
    options |= {"adversary": {"steps": 2}, "patches": PATCHES}
    whole = run_toys(tmp_path / "whole", tmp_path / "whole.pt", options)
    cut, done = tmp_path / "cut", 0
    for _ in range(2):
        process = run_toys(cut, tmp_path / "cut.pt", {**options, "delay": 0.02})
        wait_for_steps(cut / "checkpoint.pt", done + 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        done = load(cut / "checkpoint.pt")["done"]
        assert not (tmp_path / "cut.pt").exists()
    finished(run_toys(cut, tmp_path / "cut.pt", options))
    finished(whole)
    assert 10 <= done < 120
    assert equal(load(tmp_path / "whole.pt")["weights"], load(tmp_path / "cut.pt")["weights"])
    assert equal(load(tmp_path / "whole.pt")["critic"], load(tmp_path / "cut.pt")["critic"])


def wait_for_steps(checkpoint, steps):
    """Until the checkpoint says that many steps; every file that is seen on the way must be whole."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if checkpoint.exists() and load(checkpoint)["done"] >= steps:
            return
        time.sleep(0.01)
    raise AssertionError("no checkpoint was written")


@pytest.mark.slow
def test_torchrun_with_two_processes_equals_one_with_the_double_batch(tmp_path):
    options = {"steps": 6, "batch": 8, "accumulate": 2, "weight_decay": 0.0, "clip": 0.0, "adversary": {"steps": 2, "random": False}}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    finished(run_toys(tmp_path / "two", tmp_path / "two.pt", options, launcher))
    finished(run_toys(tmp_path / "one", tmp_path / "one.pt", options))
    one, two = load(tmp_path / "one.pt"), load(tmp_path / "two.pt")
    of_critic, of_network = one["gradients"]
    assert (len(of_critic), len(of_network)) == (len(list(ToyAdversary().critic.parameters())), len(list(toy_network().parameters())))
    for a, b in zip([*of_critic, *of_network], [*two["gradients"][0], *two["gradients"][1]], strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert min(g.abs().max() for g in [*of_critic[::2], *of_network]) > 1e-4
    for kind in ("weights", "critic"):
        for name, value in one[kind].items():
            assert torch.allclose(value, two[kind][name], atol=1e-4), name  # Adam magnifies rounding where a gradient is near zero
    assert not torch.allclose(toy_network().last.weight, one["weights"]["last.weight"], atol=1e-3)
    assert not torch.allclose(ToyAdversary().critic[0].weight, one["critic"]["0.weight"], atol=1e-3)


@pytest.mark.slow
def test_spawned_processes_bring_their_weights_and_words_back(tmp_path):
    words = Words()
    config = toy_config(devices=2, steps=5, clip=0.0)
    critics = [ToyAdversary(random=False) for _ in range(2)]
    two, report = train_with_critic(tmp_path / "two", critics[0], config, progress=words)
    one, _ = train_with_critic(tmp_path / "one", critics[1], toy_config(steps=5, clip=0.0, devices=1))
    assert torch.allclose(weights_of(one), weights_of(two), atol=1e-4)
    assert torch.allclose(weights_of(critics[0].critic), weights_of(critics[1].critic), atol=1e-4)
    assert words.updates[-1][:3] == ("toy", 5, 5)
    assert report.steps == 5


class NaNCrops(ToyCrops):
    def __getitem__(self, k):
        lq, gt = super().__getitem__(k)
        return lq * float("nan"), gt


@pytest.mark.slow
def test_errors_of_spawned_processes_arrive_as_they_were(tmp_path):
    with pytest.raises(StageFailed, match="toy: loss is nan and the gradient's norm nan in step 0 of 12"):
        train_toy(tmp_path / "a", toy_config(devices=2), dataset=NaNCrops())
    with pytest.raises(UsageError, match=r"batch 3 cannot be shared by 2 processes in 1 parts each\nhint: make it a multiple of 2"):
        train_toy(tmp_path / "b", toy_config(devices=2, batch=3))


@pytest.mark.slow
def test_data_processes_give_the_same_training(tmp_path):
    alone, _ = train_toy(tmp_path / "alone")
    helped, _ = train_toy(tmp_path / "helped", toy_config(workers=2))
    assert torch.equal(weights_of(alone), weights_of(helped))


class SmallImages(ToyCrops):
    def __getitem__(self, k):
        raise UsageError("image 'x'", "is too small", "leave it out")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_errors_in_the_data_arrive_as_they_were(tmp_path, workers):
    with pytest.raises(UsageError, match=r"image 'x': is too small\nhint: leave it out"):
        train_toy(tmp_path, toy_config(workers=workers), dataset=SmallImages())


def test_cropping_overlaps_the_training(tmp_path):
    def slow_loss(network, lq, gt):
        time.sleep(0.02)
        loss = (network(lq) - gt).square().mean()
        return loss, {}

    report = fit(toy_network(), slow_loss, ToyCrops(delay=0.003), toy_config(steps=30), tmp_path, Words(), label="toy")
    assert report.data_wait_share < 0.3
