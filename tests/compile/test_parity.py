from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compile.parity import (
    FLOAT_DB,
    Parity,
    Task,
    by_stand_in,
    float_parity,
    integer_parity,
    output_psnr,
    parity_measurement,
    qdq_differences,
    scale_differences,
    unproven,
    with_task_parity,
)
from pipeline.contract import Verdict
from pipeline.errors import StageFailed
from quantize.artifact import ModelFolder

WANT = [np.full((1, 3, 8, 8), 0.5, np.float32)]


def compared(error: float, precision: str) -> Parity:
    """An artifact that is off by ``error`` everywhere."""
    return float_parity([x + np.float32(error) for x in WANT], WANT, precision, "test")


def test_psnr_by_hand():
    zero = np.zeros((1, 3, 4, 4), np.float32)
    assert output_psnr(zero + np.float32(0.1), zero) == pytest.approx(20, abs=1e-4)
    assert output_psnr(zero, zero) == 100.0
    assert math.isnan(output_psnr(zero * np.nan, zero))
    assert math.isnan(output_psnr(zero + np.inf, zero))
    with pytest.raises(StageFailed, match="not the same network"):
        output_psnr(zero, zero[..., :2])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("error", "verdict"), [(0, "passed"), (0.99e-3, "passed"), (1.01e-3, "failed"), (math.nan, "failed"), (math.inf, "failed")]
)
def test_float_parity_asks_for_60_db(error: float, verdict: str, precision: str):
    found = compared(error, precision)
    assert found.verdict is Verdict(verdict)
    assert found.measurements[0].name == "parity_psnr"
    assert found.measurements[0].conditions["split"] == "test"
    assert "from the float network's on 1 test tile (at least 60)" in found.reason


@pytest.mark.parametrize(("error", "verdict"), [(3.1e-3, "passed"), (3.2e-3, "failed"), (math.nan, "failed")])
def test_bf16_parity_asks_for_50_db(error: float, verdict: str):
    found = compared(error, "bf16")
    assert found.verdict is Verdict(verdict)
    assert "at least 50" in found.reason


def test_the_bounds_follow_from_the_significant_bits():
    """One rounding of an image at full amplitude, in dB: fp32 and fp16 keep 60 dB, bf16 cannot, and 50 dB leaves it seven roundings."""

    def rounded_once(bits: int) -> float:
        values = np.random.default_rng(0).uniform(0.5, 1, (1, 3, 256, 256))
        grid = np.rint(values * 2**bits) / 2**bits
        return output_psnr(grid, values)

    assert rounded_once(8) == pytest.approx(58.96, abs=0.05)
    assert rounded_once(11) == pytest.approx(77.0, abs=0.05)
    assert rounded_once(8) < FLOAT_DB["fp32"] == FLOAT_DB["fp16"] < rounded_once(11)
    assert int(10 ** ((58.96 - FLOAT_DB["bf16"]) / 10)) == 7


def test_a_float_artifact_can_be_held_to_the_task_as_well():
    good = compared(0, "bf16")
    for change, verdict in ((0.049, "passed"), (-0.051, "failed"), (0.051, "failed"), (math.nan, "failed")):
        found = with_task_parity(good, [task(30.0 + change)], "float network")
        assert found.verdict is Verdict(verdict)
        assert "against the float network (at most 0.05 either way)" in found.reason
    assert with_task_parity(compared(1, "bf16"), [task(30.0)], "float network").verdict is Verdict.FAILED


def test_the_worst_image_counts_and_nan_stays_nan():
    assert parity_measurement([80.0, 61.0, 90.0]).value == 61.0
    assert math.isnan(parity_measurement([80.0, math.nan]).value)
    assert math.isnan(parity_measurement([]).value)


def task(*values: float, split: str = "test", kind: str = "tile") -> Task:
    return Task(values, (30.0, 28.0)[: len(values)], split, kind)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((30.0, 28.0), "passed"),
        ((30.05, 28.04), "passed"),
        ((29.9, 27.99), "failed"),
        ((30.2, 28.0), "failed"),
        ((math.nan, 28.0), "failed"),
    ],
)
def test_integer_parity_asks_for_equal_task_psnr(values: tuple[float, ...], verdict: str):
    found = integer_parity([], [task(*values)], parity_measurement([50.0]))
    assert found.verdict is Verdict(verdict)
    assert [m.name for m in found.measurements] == ["parity_task_psnr", "parity_psnr"]


@pytest.mark.parametrize("bad", ["test", "calibrate"])
def test_one_data_set_that_differs_is_enough(bad: str):
    tasks = [task(29.9 if split == bad else 30.0, split=split, kind=kind) for split, kind in (("test", "tile"), ("calibrate", "image"))]
    found = integer_parity([], tasks, parity_measurement([50.0]))
    assert found.verdict is Verdict.FAILED
    assert [m.conditions.get("split") for m in found.measurements] == ["test", "calibrate", None]
    said = {split: "-0.100" if split == bad else "+0.000" for split in ("test", "calibrate")}
    assert f"task PSNR {said['test']} dB on 1 test tile, {said['calibrate']} dB on 1 calibrate image against the Q/DQ file" in found.reason


def test_a_differing_scale_fails_whatever_the_quality():
    found = integer_parity(["activation stem"], [task(30.0)], parity_measurement([100.0]))
    assert found.verdict is Verdict.FAILED
    assert "activation stem" in found.reason


def test_a_stand_in_says_so_and_where_the_proof_is():
    mine = integer_parity([], [task(30.0)], parity_measurement([100.0]))
    found = by_stand_in(mine, "Carmel")
    assert (found.verdict, found.measurements, found.stands_in, mine.stands_in) == (Verdict.PASSED, mine.measurements, True, False)
    assert found.reason.startswith("by a stand-in here, its source in ONNX Runtime: scales and integers exact; task PSNR +0.000 dB")
    assert found.reason.endswith("; its own runtime runs on Carmel, where run.py --verify proves it")


def test_no_evidence_is_unproven():
    assert unproven("it needs the board").verdict is Verdict.UNPROVEN


@pytest.mark.parametrize("flavour", ["s8", "u8"])
def test_the_written_scales_are_those_of_the_json(model_folder: Path, flavour: str):
    folder = ModelFolder(model_folder)
    scales = folder.scales()
    assert len(scales["activations"]) > 10
    assert scale_differences(folder.qdq(flavour), scales) == []


@pytest.mark.parametrize("flavour", ["s8", "u8"])
@pytest.mark.parametrize("kind", ["scale", "zero", "gone"])
def test_one_changed_parameter_is_found(model_folder: Path, tmp_path: Path, flavour: str, kind: str):
    folder = ModelFolder(model_folder)
    scales = folder.scales()
    name = next(n for n, a in scales["activations"].items() if a["shares"] == n and not a["non_negative"])
    model = onnx.load(folder.qdq(flavour))
    node = next(n for n in model.graph.node if n.name == f"{name}.quantize")
    if kind == "gone":
        node.name = "other"
    else:
        old = next(i for i in model.graph.initializer if i.name == node.input[1 if kind == "scale" else 2])
        value = numpy_helper.to_array(old)
        new = np.nextafter(value, np.float32(9)) if kind == "scale" else value + value.dtype.type(1)
        node.input[1 if kind == "scale" else 2] = "changed"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(new, value.dtype), "changed"))
    onnx.save(model, tmp_path / "changed.onnx")
    assert scale_differences(tmp_path / "changed.onnx", scales) == [f"activation {name}"]


def test_one_changed_weight_scale_is_found(model_folder: Path):
    folder = ModelFolder(model_folder)
    scales = folder.scales()
    name = next(iter(scales["weights"]))
    scales["weights"][name]["scale"][0] = float(np.nextafter(np.float32(scales["weights"][name]["scale"][0]), np.float32(9)))
    assert scale_differences(folder.qdq("s8"), scales) == [f"weight {name}"]


def tampered(folder: ModelFolder, flavour: str, out: Path) -> str:
    """A Q/DQ file with one integer of one weight changed by 1; the weight's name."""
    name = next(iter(folder.scales()["weights"]))
    model = onnx.load(folder.qdq(flavour))
    node = next(n for n in model.graph.node if n.name == f"{name}.dequantize")
    tensor = next(i for i in model.graph.initializer if i.name == node.input[0])
    value = numpy_helper.to_array(tensor).copy()
    value.reshape(-1)[0] += 1 if value.reshape(-1)[0] < 127 else -1
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, out)
    return name


@pytest.mark.parametrize("flavour", ["s8", "u8"])
def test_one_changed_integer_of_a_weight_is_found(model_folder: Path, tmp_path: Path, flavour: str):
    folder = ModelFolder(model_folder)
    assert qdq_differences(folder.qdq(flavour), folder) == []
    name = tampered(folder, flavour, tmp_path / "changed.onnx")
    assert scale_differences(tmp_path / "changed.onnx", folder.scales()) == []
    assert qdq_differences(tmp_path / "changed.onnx", folder) == [f"integers of weight {name}"]
