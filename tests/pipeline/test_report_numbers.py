from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.measured import read_measurements
from pipeline.report.numbers import duration, number, origin, significant


@pytest.mark.parametrize(
    ("value", "unit", "metric", "text"),
    [
        (29.514, "dB", "psnr", "29.51 dB"),
        (-0.4, "dB", "psnr", "−0.40 dB"),
        (-0.001, "dB", "psnr", "0.00 dB"),
        (0.84126, "", "ssim", "0.8413"),
        (18.345, "ms", "latency_p50", "18.3 ms"),
        (1234567.0, "ms", "latency_p50", "1,234,567 ms"),
        (412000, "", "params", "0.412 M"),
        (5.91e9, "count", "macs", "5.91 G"),
        (410000, "B", "size", "0.410 MB"),
        (0.41, "MB", "size", "0.410 MB"),
        (None, "dB", "psnr", "–"),
        (True, "dB", "psnr", "–"),
        ("NaN", "dB", "psnr", "NaN dB"),
        (math.nan, "dB", "psnr", "NaN dB"),
        (math.inf, "dB", "parity_psnr", "∞ dB"),
        (-math.inf, "", "x", "−∞"),
        (0, "ms", "x", "0 ms"),
    ],
)
def test_a_number_shows_its_unit_and_a_sensible_count_of_digits(value: object, unit: str, metric: str, text: str) -> None:
    assert number(value, unit, metric=metric).text == text


def test_what_is_not_finite_is_marked() -> None:
    assert number(math.nan, "dB").state == number(math.inf, "dB").state == "nan"
    assert number(None).state == "missing"
    assert number(1.0, "dB").state == "ok"


@pytest.mark.parametrize(("value", "text"), [(0.12, "+0.12 dB"), (-0.12, "−0.12 dB"), (0.0, "0.00 dB"), (0.001, "0.00 dB")])
def test_a_signed_number_shows_a_plus_only_when_it_is_not_zero(value: float, text: str) -> None:
    assert number(value, "dB", signed=True).text == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (61.2, "61 s"), (431.2, "7 min 11 s"), (7500, "2 h 5 min"), (119.9, "2 min 0 s"), (None, "–"), (math.nan, "NaN s")],
)
def test_a_duration_reads_like_speech(seconds: float | None, text: str) -> None:
    assert duration(seconds).text == text


@given(st.floats(-1e300, 1e300))
def test_significant_digits_keep_the_value(value: float) -> None:
    text = significant(value).replace("−", "-").replace(",", "")
    assert float(text) == pytest.approx(value, rel=6e-3, abs=1e-300)


def test_only_target_evidence_is_called_measured_on_the_target() -> None:
    assert origin("host", "jetson-xavier") == "measured on this host"
    assert origin("estimated", "jetson-xavier") == "estimated for jetson-xavier"
    assert origin("target", "jetson-xavier") == "measured on jetson-xavier"
    assert origin("gossip", "jetson-xavier") == "origin unknown"


def test_a_speedup_has_a_column_and_a_second_data_set_is_named() -> None:
    base = {"unit": "dB", "evidence": "host", "samples": 2}
    rows = [{"name": "psnr", "value": 30.0, "conditions": {"split": "calibrate"}, **base}]
    rows += [{"name": "psnr", "value": 26.0, "conditions": {"split": "test"}, **base}]
    rows += [{"name": "speedup", "value": 1.923, "unit": "x", "evidence": "host", "samples": 9}]
    found = read_measurements(rows, "board")
    assert found["psnr"].text == "30.00 dB" and [(o.name, o.number.text) for o in found.others] == [("PSNR on test", "26.00 dB")]
    assert found.speed == "1.92× as fast as before, timed in turn" and read_measurements([], "board").speed == ""
