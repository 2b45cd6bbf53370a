"""The learning rate at the corners of every schedule, and where the published recipes have theirs."""

from __future__ import annotations

import pytest

from train.config import TrainConfig
from train.schedule import learning_rate


def rates(**options):
    config = TrainConfig(**{"warmup": 0.0, "min_lr": 0.0, **options})
    return [learning_rate(step, config) for step in range(config.steps)]


def test_the_cosine_rises_and_falls():
    found = rates(steps=100, lr=1e-3, min_lr=1e-5, warmup=0.1)
    assert found[0] == pytest.approx(1e-3 / 11)
    assert found[10] == pytest.approx(1e-3) == max(found)
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)
    assert found[-1] == pytest.approx(1e-5)
    assert rates(steps=1, lr=1e-3) == [pytest.approx(1e-3)]


def test_nafnet_s_cosine():
    found = rates(steps=2001, lr=1e-3, min_lr=1e-7)
    assert (found[0], found[1000], found[-1]) == (1e-3, pytest.approx((1e-3 + 1e-7) / 2), pytest.approx(1e-7))


def test_mimo_unet_halves_every_500_of_3000():
    found = rates(steps=3000, lr=1e-4, schedule="step", step_every=0.16667, step_factor=0.5)
    for k in range(6):
        assert set(found[500 * k : 500 * (k + 1)]) == {1e-4 * 0.5**k}


def test_srn_falls_to_three_tenths_every_500_of_2000():
    found = rates(steps=2000, lr=1e-4, schedule="step", step_every=0.25, step_factor=0.3)
    assert [found[s] for s in (0, 499, 500, 1500, 1999)] == pytest.approx([1e-4, 1e-4, 3e-5, 2.7e-6, 2.7e-6])


def test_steps_stop_at_the_lowest_rate_and_fit_the_shortest_training():
    assert rates(steps=4, lr=1.0, min_lr=0.2, schedule="step", step_every=0.01) == [1.0, 0.5, 0.25, 0.2]
    assert rates(steps=3, lr=1.0, schedule="step", step_every=1.0) == [1.0] * 3


def test_deblurgan_holds_for_half_and_falls_to_zero():
    found = rates(steps=300, lr=1e-4, schedule="linear", hold=0.5)
    assert set(found[:151]) == {1e-4}
    assert found[225] == pytest.approx(5e-5)
    assert found[-1] == pytest.approx(1e-4 / 150)  # 0 would be the step behind the last
    assert learning_rate(300, TrainConfig(steps=300, lr=1e-4, min_lr=0, warmup=0, schedule="linear", hold=0.5)) == 0


def test_a_line_begins_behind_the_warm_up():
    found = rates(steps=10, lr=1.0, warmup=0.2, schedule="linear")
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


def test_srn_s_polynomial():
    found = rates(steps=1000, lr=1e-4, schedule="poly", power=0.3)
    assert (found[0], found[500], found[999]) == (1e-4, pytest.approx(1e-4 * 0.5**0.3), pytest.approx(1e-4 * 0.001**0.3))
    assert found == sorted(found, reverse=True)
    assert rates(steps=4, lr=1.0, min_lr=0.5, schedule="poly", power=1.0) == [1.0, 0.875, 0.75, 0.625]


def test_constant_is_constant_behind_the_warm_up():
    assert rates(steps=8, lr=1e-7, min_lr=1e-6, warmup=0.25, schedule="constant") == pytest.approx([1e-7 / 3, 2e-7 / 3, *[1e-7] * 6])


@pytest.mark.parametrize("schedule", ["cosine", "step", "linear", "constant", "poly"])
def test_every_schedule_begins_at_the_peak_and_stays_between(schedule):
    for steps in (1, 2, 7):
        found = rates(steps=steps, lr=1e-3, min_lr=1e-5, schedule=schedule)
        assert found[0] == pytest.approx(1e-3)
        assert all(1e-5 <= rate <= 1e-3 * (1 + 1e-12) for rate in found)
