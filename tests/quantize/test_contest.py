"""The choice: who may win, and by how much."""

import math

import numpy as np
import pytest

from quantize.contest import Contest
from quantize.judged import Judged, paired
from quantize.stage import STAGE

FLOAT = (30.0, 31.0, 29.0, 30.5)


def contest(**config):
    out = object.__new__(Contest)
    out.config = STAGE.config(**config)
    out.float = Judged("float", None, FLOAT, int8=False)
    return out


def candidate(name, *differences, trained=False, int8=True):
    values = tuple(f + d for f, d in zip(FLOAT, differences, strict=True))
    return Judged(name, None, values, int8, trained=trained)


def choice(*candidates, **config):
    return contest(**config).choose(candidates).name


PTQ = candidate("ptq-mse", -0.1, -0.1, -0.1, -0.1)


def test_the_better_calibration_wins():
    assert choice(candidate("ptq-percentile", -0.2, -0.2, -0.2, -0.2), PTQ) == "ptq-mse"


def test_of_contenders_within_the_margin_the_better_worst_image_wins():
    better = candidate("qat", -0.09, -0.09, -0.09, -0.11, trained=True)
    assert choice(PTQ, better, margin=0.004) == "qat"
    assert choice(PTQ, better, margin=0.006) == "ptq-mse"


def test_a_mean_within_the_standard_error_does_not_buy_a_worse_image():
    steady = candidate("qat", -0.08, -0.07, -0.09, -0.08, trained=True)
    lucky = candidate("qat", 0.3, -0.1, -0.2, -0.1, trained=True)  # on the mean it gains more
    assert paired(lucky.psnr, PTQ.psnr).mean > paired(steady.psnr, PTQ.psnr).mean
    assert choice(PTQ, steady) == "qat"
    assert choice(PTQ, lucky) == "ptq-mse"


def test_a_clear_mean_wins_with_a_slightly_worse_image():
    clear = candidate("qat", 0.0, 0.0, 0.0, -0.12, trained=True)
    assert choice(PTQ, clear) == "qat"


def test_one_picture_has_no_standard_error():
    judge = contest(margin=0.01)
    judge.float = Judged("float", None, (30.0,), int8=False)
    one, other = (Judged(n, None, (v,), True) for n, v in (("a", 29.9), ("b", 29.905)))
    assert judge.tied(one, other)
    judge.config = STAGE.config(margin=0.001)
    assert not judge.tied(one, other)


def test_of_several_trainings_the_best_one_counts_and_the_float_control_never():
    found = [candidate(n, d, d, d, d, trained=True) for n, d in (("qat", 0.01), ("qat-2", 0.05), ("clamp-ptq", 0.02))]
    control = candidate("float-control", 1.0, 1.0, 1.0, 1.0, trained=True, int8=False)
    assert choice(PTQ, *found, control) == "qat-2"


def test_a_ruined_image_disqualifies_whatever_the_mean_says():
    ruins = candidate("ptq-percentile", 0.3, 0.3, 0.3, -0.5)
    assert choice(ruins, PTQ) == "ptq-mse"
    assert choice(ruins, PTQ, max_drop_worst=1.0) == "ptq-percentile"
    assert choice(ruins, PTQ, max_drop_worst=0.05) == "ptq-percentile"  # no one is within it


def test_what_is_not_a_number_never_wins():
    assert choice(PTQ, candidate("qat", *[math.nan] * 4, trained=True)) == "ptq-mse"
    assert choice(candidate("ptq-percentile", *[math.nan] * 4), PTQ) == "ptq-mse"
    assert not contest().fits(candidate("ptq", *[math.nan] * 4))


@pytest.mark.parametrize(("differences", "fits"), [((-0.1,) * 4, True), ((-0.2,) * 4, False), ((-0.45, 0, 0, 0), False)])
def test_both_bounds_must_hold(differences, fits):
    assert contest(max_drop=0.15, max_drop_worst=0.4).fits(candidate("ptq", *differences)) is fits


def test_training_is_spared_only_when_that_is_asked_for():
    assert not contest().spares_training(candidate("ptq", 0, 0, 0, 0))
    assert contest(enough=0.1001).spares_training(PTQ)
    assert not contest(enough=0.09).spares_training(PTQ)
    assert not contest(enough=0.5).spares_training(candidate("ptq", -0.5, 0, 0, 0))


def test_a_paired_difference_is_numpys():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    d = paired(a, b)
    assert (d.mean, d.worst) == (pytest.approx(1 / 6), -0.5)
    assert d.error == pytest.approx(np.std(a - b, ddof=1) / np.sqrt(3))
    assert str(d) == "+0.167 ± 0.441 dB, worst image -0.500"
    assert math.isnan(paired([1.0], [2.0]).error)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"contenders": ["qat"]}, "contenders must name ptq"),
        ({"calibration": ["mse", "mse"]}, "calibration names one of them twice: mse, mse"),
    ],
)
def test_a_contest_that_cannot_be_held(config, message):
    with pytest.raises(ValueError, match=message):
        STAGE.config.model_validate(config)
