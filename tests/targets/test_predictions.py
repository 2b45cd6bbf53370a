from __future__ import annotations

import math

import pytest

from pipeline.errors import UsageError
from targets.estimator import LayerTime
from targets.predictions import Prediction, append, kind_errors, read

ONE = Prediction("jetson-xavier", "tensorrt-int8", "tensorrt", "int8", "1920x1080", "roofline", 12.0, 10.0, "target", "2026-03-01")


def test_predictions_are_kept_in_order(tmp_path):
    path = tmp_path / "calibration" / "predictions.jsonl"
    assert read(path) == []
    other = Prediction(**{**{f: getattr(ONE, f) for f in ONE.__slots__}, "measured_ms": 24.0})
    append(path, ONE)
    append(path, other)
    assert read(path) == [ONE, other]
    assert [p.error for p in read(path)] == pytest.approx([0.2, -0.5])


@pytest.mark.parametrize("line", ["{", "[]", '{"target": "x"}', '{"nothing": 1}'])
def test_a_line_that_is_none_is_named(tmp_path, line):
    path = tmp_path / "predictions.jsonl"
    append(path, ONE)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UsageError, match=r"predictions\.jsonl:2: is no prediction"):
        read(path)


def test_errors_by_kind_over_networks():
    first = ([LayerTime("frame", "frame", 0.1, "launch", "frame"), LayerTime("a", "Conv", 2.0, "compute", "dense")], {"a": 4.0})
    second = (
        [
            LayerTime("a", "Conv", 1.0, "compute", "dense"),
            LayerTime("b", "Relu", 0.0, "fused", "dense"),
            LayerTime("c", "Add", 1.0, "memory", "add"),
        ],
        {"a": 0.5, "b": 0.5, "Reorder": 0.25},
    )
    found = {row.kind: row for row in kind_errors([first, second])}
    assert (found["dense"].predicted_ms, found["dense"].measured_ms, found["dense"].error) == (3.0, 5.0, pytest.approx(-0.4))
    assert (found["other"].measured_ms, found["other"].error) == (0.25, -1.0)
    assert math.isinf(found["add"].error)
    assert next(iter(found)) == "dense"


def test_an_activation_inside_a_convolution_counts_to_it_under_either_name():
    layers = [
        LayerTime("c", "Conv", 2.0, "compute", "dense"),
        LayerTime("r", "Relu", 0.0, "fused", "relu"),
        LayerTime("a", "Add", 0.5, "fused", "add"),
    ]
    (dense, add) = kind_errors([(layers, {"r": 4.0, "a": 1.0})])
    assert (dense.kind, dense.predicted_ms, dense.measured_ms) == ("dense", 2.0, 4.0)
    assert (add.kind, add.predicted_ms, add.measured_ms) == ("add", 0.5, 1.0)


def test_a_result_is_kept_once(tmp_path):
    path = tmp_path / "predictions.jsonl"
    kept = Prediction(**{**{f: getattr(ONE, f) for f in ONE.__slots__}, "result": "b:r", "kinds": (("dense", 1.0, 2.0),)})
    assert [append(path, kept), append(path, kept), append(path, ONE), append(path, ONE)] == [True, False, True, True]
    assert read(path) == [kept, ONE, ONE]
