"""Progressive patch sizes: which samples each step takes, and that an interrupted training takes the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from tests.train.toys import PhasedCrops, Stop, ToySource, Words, mse_loss, toy_config, toy_network, train_toy, weights_of
from train.batches import IndexPlan
from train.phases import Phase, phases, samples
from train.recover import train_alone, training_crops

PATCHES = [{"from": 0, "crop": 16}, {"from": 0.5, "crop": 24, "batch": 2}, {"from": 0.75, "crop": 32, "batch": 8}]


def test_phases_follow_from_the_shares_of_the_steps():
    config = toy_config(patches=PATCHES)
    assert phases(config) == (Phase(0, 0, 4, 16), Phase(6, 24, 2, 24), Phase(9, 30, 8, 32))
    assert samples(config) == 54
    assert phases(toy_config()) == (Phase(0, 0, 4, 16),)
    assert samples(toy_config()) == 48


def test_short_trainings_leave_out_what_has_no_step():
    assert phases(toy_config(steps=1, patches=PATCHES)) == (Phase(0, 0, 2, 24),)
    assert phases(toy_config(steps=2, patches=PATCHES)) == (Phase(0, 0, 4, 16), Phase(1, 4, 2, 24))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4), st.data())
def test_all_processes_together_see_consecutive_samples_once(world, accumulate, lengths, data):
    steps = sum(length for length, _ in lengths)
    begins = [sum(length for length, _ in lengths[:i]) for i in range(len(lengths))]
    batches = [size * world * accumulate for _, size in lengths]
    later = tuple(zip(begins[1:], batches[1:], strict=True))
    plans = [list(IndexPlan(steps, batches[0], accumulate, rank, world, 0, later)) for rank in range(world)]
    expected = 0
    for step in range(steps):
        batch = batches[max(i for i, begin in enumerate(begins) if begin <= step)]
        parts = [[k for plan in plans for k in plan[step * accumulate + part]] for part in range(accumulate)]
        assert [k for part in parts for k in part] == list(range(expected, expected + batch))
        assert {len(part) for part in parts} == {batch // accumulate}
        expected += batch
    first = data.draw(st.integers(0, steps))
    resumed = list(IndexPlan(steps, batches[0], accumulate, 0, world, first, later))
    assert resumed == plans[0][first * accumulate :]


class Interrupted(PhasedCrops):
    def __init__(self, config, sample):
        super().__init__(config)
        self.sample = sample

    def __getitem__(self, k):
        if k >= self.sample:
            raise Stop
        return super().__getitem__(k)


@pytest.mark.parametrize("sample", [23, 24, 27, 30, 45])
def test_resume_is_exact_across_a_change_of_size(tmp_path, sample):
    config = toy_config(checkpoint_steps=1, patches=PATCHES, accumulate=2)
    whole, _ = train_toy(tmp_path / "whole", config, toy_network(dropout=0.2, norm=True), dataset=PhasedCrops(config))
    with pytest.raises(Stop):
        train_toy(tmp_path / "cut", config, toy_network(dropout=0.2, norm=True), dataset=Interrupted(config, sample))
    rest = PhasedCrops(config)
    resumed, report = train_toy(tmp_path / "cut", config, toy_network(dropout=0.2, norm=True), dataset=rest)
    start = {23: 5, 24: 6, 27: 7, 30: 9, 45: 10}[sample]
    assert report.resumed_at == start
    assert rest.asked == list(range(IndexPlan(12, 4, later=((6, 2), (9, 8))).at(start)[0], 54))
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_steps_see_the_sizes_of_their_phase(tmp_path):
    seen = []

    def loss_fn(network, lq, gt):
        seen.append((len(lq), *lq.shape[2:]))
        return mse_loss(network, lq, gt)

    config = toy_config(patches=PATCHES)
    train_toy(tmp_path, config, dataset=PhasedCrops(config), loss=loss_fn)
    assert seen == [(4, 16, 16)] * 6 + [(2, 24, 24)] * 3 + [(8, 32, 32)] * 3


def test_the_real_crops_change_size_with_the_phase():
    config = toy_config(patches=PATCHES, augment={"vflip": False, "rot90": False})
    crops = training_crops(ToySource(), config)
    assert len(crops) == 54
    assert crops.augment == config.augment
    assert [crops[k][0].shape[-1] for k in (0, 23, 24, 29, 30, 53)] == [16, 16, 24, 24, 32, 32]


def test_a_training_on_real_crops_runs_through_its_phases(tmp_path):
    network, start = toy_network(), weights_of(toy_network())
    config = toy_config(patches=PATCHES, seed=None)
    report = train_alone(network, mse_loss, ToySource(), config, tmp_path, Words(), 3, label="toy")
    assert report.steps == 12
    assert not torch.equal(weights_of(network), start)


def test_every_size_must_fit_the_network(tmp_path):
    config = toy_config(patches=[PATCHES[0], {"from": 0.5, "crop": 25}])
    with pytest.raises(UsageError) as e:
        train_alone(toy_network(), mse_loss, ToySource(), config, tmp_path, Words(), 3, label="teach")
    assert str(e.value) == "teach: train.patches.1.crop: 25 is no multiple of 2, which the networks need\nhint: e.g. 24"


def test_every_image_must_be_large_enough(tmp_path):
    config = toy_config(patches=[PATCHES[0], {"from": 0.5, "crop": 48}])
    with pytest.raises(UsageError, match=r"image 'pair.': is 40x40 pixels"):
        train_alone(toy_network(), mse_loss, ToySource(side=40), config, tmp_path, Words(), 3, label="teach")
    assert not (tmp_path / "tensorboard").exists()  # said before the first step
