from __future__ import annotations

import math

import pytest

from compile.limits import Limits
from eval.quality import QualityResult


def quality(*values: float) -> QualityResult:
    return QualityResult(("a", "b"), values, values, values)


LIMITS = Limits(quality(30.0, 40.0), 0.3, 0.5, 2.0)


@pytest.mark.parametrize(
    ("values", "mb", "text"),
    [
        ((30.0, 40.0), 2.0, ""),
        ((35.0, 45.0), 1.0, ""),
        ((29.52, 39.93), 1.0, ""),
        ((29.6, 39.7), 1.0, "loses 0.35 dB on the mean of 2 images against the float network (at most 0.3)"),
        ((31.0, 39.4), 1.0, "loses 0.60 dB on image 'b' against the float network (at most 0.5 on any)"),
        ((30.0, 40.0), 2.01, "is too large: 2.01 MB (at most 2)"),
        ((math.nan, 40.0), 1.0, "loses nan dB on the mean"),
        ((30.0, 40.0), math.nan, "is too large: nan MB"),
    ],
)
def test_the_mean_the_worst_image_and_the_size_have_a_bound_each(values: tuple[float, float], mb: float, text: str):
    fault = LIMITS.fault(quality(*values), mb)
    assert fault.startswith(text)
    assert bool(fault) == bool(text)


def test_without_a_bound_any_size_passes():
    assert Limits(quality(30.0, 40.0), 0.3, 0.3).fault(quality(30.0, 40.0), 1e6) == ""


def test_the_largest_loss_is_measured():
    found = LIMITS.measurement(quality(31.0, 39.4))
    assert (found.name, found.unit, found.better, found.samples) == ("psnr_drop_worst", "dB", "lower", 2)
    assert found.value == pytest.approx(0.6)
    assert found.values == pytest.approx((-1.0, 0.6))
    assert math.isnan(LIMITS.measurement(quality(math.nan, 40.0)).value)
