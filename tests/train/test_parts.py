"""Configuration, schedule, average, batches, random numbers, optimizer groups."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tests.train.toys import ToyCrops, toy_config
from train.batches import IndexPlan, batches, prefetch, worker_count
from train.config import LossWeights, Patch, RecoverConfig, TrainConfig
from train.determinism import derive, seeded, set_seeds
from train.ema import Ema
from train.launch import resolve_precision
from train.step import make_optimizer, set_lr


def test_configuration_does_not_load_torch():
    code = "import sys, train.config, distill.teach, distill.student; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("model", [TrainConfig, Patch, LossWeights, RecoverConfig])
def test_every_setting_is_described_and_unknown_ones_are_refused(model):
    assert all(field.description for field in model.model_fields.values())
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"nonsense": 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 8, "accumulate": 3}, "batch 8 cannot be cut into accumulate = 3 equal parts"),
        ({"lr": 1e-4, "min_lr": 1e-3}, "min_lr 0.001 is above lr 0.0001"),
        ({"lr": float("nan")}, "greater than 0"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"step_every": 0.0, "schedule": "step"}, "greater than 0"),
        ({"step_every": 1.5, "schedule": "step"}, "less than or equal to 1"),
        ({"step_every": 0.5}, "step_every is for schedule 'step', and schedule is 'cosine'"),
        ({"schedule": "step", "hold": 0.5}, "hold is for schedule 'linear', and schedule is 'step'"),
        ({"schedule": "linear", "power": 1.0}, "power is for schedule 'poly', and schedule is 'linear'"),
        ({"clip": 0.0, "clip_only": "*lstm*"}, r"clip_only '\*lstm\*' has no effect with clip 0"),
        ({"patches": [{"from": 0.1, "crop": 64}]}, "the first patch begins at 0.1, it must be from: 0"),
        ({"patches": [{"from": 0, "crop": 64}] * 2}, "each patch must begin after the one before, not 0, 0"),
        ({"patches": [{"from": 0, "crop": 64, "batch": 3}], "accumulate": 2}, "batch 3 cannot be cut into accumulate = 2 equal parts"),
        ({"patches": [{"from": 0, "crop": 64, "until": 1}]}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**changes)


def test_settings_survive_being_written_and_read():
    config = TrainConfig(optimizer="adam", schedule="step", step_every=0.1, patches=[{"from": 0, "crop": 64}, {"from": 0.5, "crop": 96}])
    assert TrainConfig.model_validate_json(config.model_dump_json(by_alias=True)) == config
    assert TrainConfig.model_validate(config.model_dump()) == config


def test_only_adamw_decays_by_itself():
    assert TrainConfig().weight_decay > 0
    assert TrainConfig(optimizer="adam").weight_decay == 0
    assert TrainConfig(optimizer="adam", weight_decay=0.1).weight_decay == 0.1


def test_a_seed_is_filled_in_only_where_there_is_none():
    assert TrainConfig().seeded(7).seed == 7
    assert TrainConfig(seed=3).seeded(7).seed == 3


def test_batches_hold_the_samples_of_the_plan():
    dataset = ToyCrops()
    for (lq, gt), indices in zip(batches(dataset, IndexPlan(3, 2, first=1), 0), ([2, 3], [4, 5]), strict=True):
        assert torch.equal(lq, torch.from_numpy(np.stack([dataset[k][0] for k in indices])))
        assert torch.equal(gt, torch.from_numpy(np.stack([dataset[k][1] for k in indices])))
        assert lq.dtype == torch.float32


def test_batches_draw_no_random_numbers():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    list(batches(ToyCrops(), IndexPlan(2, 2), 0))
    assert torch.equal(torch.rand(1), wanted)


def test_prefetching_ends_with_its_consumer():
    items = prefetch(range(1000))
    assert next(items) == 0
    items.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_prefetching_passes_errors_on():
    def broken():
        yield 1
        raise KeyError("lost")

    items = prefetch(broken())
    assert next(items) == 1
    with pytest.raises(KeyError, match="lost"):
        next(items)


def test_worker_count(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(2)))
    assert worker_count(toy_config(), on_gpu=False, world=1) == 0
    assert worker_count(toy_config(), on_gpu=True, world=1) == 2
    assert worker_count(toy_config(workers=3), on_gpu=False, world=1) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)))
    assert worker_count(toy_config(), on_gpu=False, world=1) == 8
    assert worker_count(toy_config(), on_gpu=True, world=8) == 4


def test_seeds_follow_from_their_parts():
    assert derive(1, 2) == derive(1, 2) != derive(2, 1)
    assert derive(1, 23) != derive(12, 3)
    assert 0 <= derive("a") < 2**63

    def draw():
        return torch.rand(1).item(), np.random.rand(), random.random()

    set_seeds(1)
    first = draw()
    with seeded(2):
        other = draw()
    after = draw()
    set_seeds(1)
    assert draw() == first != other
    assert draw() == after


def test_the_average_follows_the_weights():
    module = nn.BatchNorm2d(1)
    ema = Ema(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(3.0)
        module.running_mean.fill_(2.0)
    ema.update(1000)
    with ema.applied():
        assert (module.weight.item(), module.running_mean.item()) == (2.0, 1.0)
    assert (module.weight.item(), module.running_mean.item()) == (3.0, 2.0)
    assert module.num_batches_tracked == 0
    other = Ema(module, 0.5)
    other.load(ema.average)
    other.apply()
    assert module.weight.item() == 2.0


def test_the_average_forgets_its_start_quickly():
    module = nn.Linear(1, 1)
    ema = Ema(module, 0.999)
    with torch.no_grad():
        module.weight.fill_(5.0)
    for count in range(1, 60):
        ema.update(count)
    assert ema.average[0].item() == pytest.approx(5.0, abs=0.01)


def test_weight_decay_spares_what_is_one_dimensional():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module.register_parameter("beta", nn.Parameter(torch.zeros(1, 4, 1, 1)))
    module.register_parameter("frozen", nn.Parameter(torch.zeros(4, 4), requires_grad=False))
    optimizer = make_optimizer(module, TrainConfig(weight_decay=0.1), {"1.*": 0.5})
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    names = {name: decay.get(id(p)) for name, p in module.named_parameters()}
    assert names == {"0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "beta": 0.0, "frozen": None}
    everything = make_optimizer(module, TrainConfig(weight_decay=0.1, decay="all"), {})
    assert [(g["weight_decay"], len(g["params"])) for g in everything.param_groups] == [(0.1, 5)]
    set_lr(optimizer, 1e-2)
    assert {g["lr"] for g in optimizer.param_groups} == {1e-2, 5e-3}


def test_precision_follows_the_machine(monkeypatch):
    assert resolve_precision(toy_config(amp="bf16-mixed")) == "bf16-mixed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_precision(toy_config()) == "32-true"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert resolve_precision(toy_config()) == "32-true"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert resolve_precision(toy_config()) == "bf16-mixed"
