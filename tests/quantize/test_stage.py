"""The whole stage on a small student: what it hands on, how it chooses, how it retreats, and how it goes on after an interruption."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch

from eval.quality import evaluate, session_restorer
from eval.session import open_session
from models.checkpoint import load
from pipeline.contract import Evidence, Kind
from pipeline.errors import StageFailed, UsageError
from quantize.artifact import ModelFolder
from quantize.insert import quantizers
from quantize.settings import Qat
from quantize.stage import STAGE
from tests.quantize.toys import SMALL, Echo, checkpoint_of, context, db, pairs, photos, quantized, student, teacher
from tests.train.toys import Words
from train.recover import recover

FAST = {"recover": {"train": {"steps": 3, "batch": 2, "crop": 32}}, "seconds": 0.02, "equalise": False, "correct_bias": False}
ALL = {"contenders": ["ptq", "qat", "clamp-ptq"], "equalise": True, "correct_bias": True, "control": True}
NAMES = {"psnr", "ssim", "psnr_worst5", "psnr_gain", "params", "macs", "size", "latency_p50", "speedup"}


PTQ = {"contenders": ["ptq"]}


def stage(tmp_path, config=(), network=None, target="jetson-xavier", with_teacher=True, progress=None):
    make = pairs if network is None else partial(Echo, network)
    inputs = {"model": checkpoint_of(network or student(**SMALL), tmp_path / "model.safetensors")}
    if with_teacher:
        inputs["teacher"] = teacher(tmp_path / "teacher.safetensors")
    ctx = context(STAGE, tmp_path / "work", {**FAST, **dict(config)}, inputs, target, progress, make)
    return ctx, STAGE.run(ctx)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("stage"), ALL)


def fragile():
    """A student that per-tensor int8 ruins: one channel is a thousand times larger than it was, undone in the next weights."""
    network = student(**SMALL)
    block = network.encoder[0][0]
    with torch.no_grad():
        block.expand.bn.weight[0] *= 1000
        block.expand.bn.bias[0] *= 1000
        block.project.conv.weight[:, 0] /= 1000
    return network


def calibrated(result):
    """The names of all calibrations, the better one refined."""
    names = [c.name for c in result.candidates]
    best = next(n.removesuffix("-bc").removeprefix("ptq-cle-") for n in names if n.startswith("ptq-cle-"))
    return ["ptq-percentile", "ptq-mse", "ptq-median", f"ptq-{best}-bc", f"ptq-cle-{best}", f"ptq-cle-{best}-bc"]


def chosen(result):
    return [c.name for c in result.candidates if c.chosen]


def test_it_hands_on_a_model_folder_and_samples(done):
    _, result = done
    folder = ModelFolder(result.outputs["model"].path)
    assert result.outputs["model"].kind is Kind.ONNX
    assert folder.has_int8
    assert result.outputs["model"].facts == json.loads((folder.path / "model.json").read_text())
    assert len(list(result.outputs["samples"].path.glob("*.png"))) == 2
    assert not result.retreated
    assert [h["stage"] for h in load(folder.checkpoint).history] == ["toy", "quantize"]


def test_it_measures_what_it_hands_on(done):
    by_name = {m.name: m for m in done[1].measurements}
    assert by_name.keys() == NAMES
    assert all(m.finite and m.evidence is Evidence.HOST for m in by_name.values())
    assert len(by_name["psnr"].values) == 2
    assert by_name["psnr"].conditions == {"backend": "onnxruntime", "precision": "int8"}
    assert by_name["size"].conditions == {"file": "qdq_u8.onnx"}
    assert by_name["speedup"].conditions["against"] == "fp32"
    assert {k: by_name["latency_p50"].conditions[k] for k in ("frame", "threads", "precision")} == {
        "frame": "256x256",
        "threads": 1,
        "precision": "int8",
    }


def test_every_candidate_is_reported_on_both_splits(done):
    _, result = done
    assert [c.name for c in result.candidates] == ["float", *calibrated(result), "qat", "clamp-ptq", "float-control"]
    assert len(chosen(result)) == 1
    for c in result.candidates:
        rows = [("psnr", "calibrate", 3), ("psnr", "test", 2)] + [("psnr_delta", "calibrate", 3)] * (c.name != "float")
        assert [(m.name, m.conditions["split"], m.samples) for m in c.measurements] == rows
    assert [c.precision for c in result.candidates] == ["fp32", *["int8"] * 8, "fp32"]
    assert result.candidates[-1].reason.endswith("what the training gives without int8; never handed on")
    assert "dB, worst image " in result.candidates[1].reason
    assert result.candidates[1].reason.endswith("on the held-out pictures against float")


def test_the_delta_of_a_candidate_carries_its_standard_error_and_worst_image(done):
    _, result = done
    reference = result.candidates[0].measurements[0].values
    for c in result.candidates[1:]:
        delta, difference = c.measurements[2], np.asarray(c.measurements[0].values) - reference
        assert np.isclose(delta.value, difference.mean())
        assert np.isclose(delta.conditions["standard_error"], difference.std(ddof=1) / 3**0.5, atol=1e-4)
        assert np.isclose(delta.conditions["worst"], difference.min(), atol=1e-4)


def test_the_notes_say_which_and_by_how_much(done):
    _, result = done
    parts, first, training, exchange, speed, last = result.notes
    assert parts.startswith("the calibration set has 3 pictures of 1 scene, too little to share out: it judges, 3 pictures of ")
    assert f"{chosen(result)[0]} is the best int8: " in first
    assert "on the held-out pictures against float (" in first
    assert re.match(
        r"(qat|clamp-ptq) against ptq-\S+: [+-]\d.\d+ ± \d.\d+ dB, paired; worst image [+-]\d.\d+ against [+-]\d.\d+ dB: ", training
    )
    assert "in float the most sensitive tensors of " in exchange
    assert "on crops, at 1920x1080 (estimated): " in exchange
    assert "x as fast as fp32 in ONNX Runtime on this host, 1 thread" in speed
    assert last.startswith(f"on the test set {chosen(result)[0]} as ONNX Runtime computes it has ")
    assert "over the first 2 images float has" in last


def test_the_exchange_table_lists_every_tensor_with_its_price(done):
    _, result = done
    assert result.outputs["exchange"].kind is Kind.REPORT
    table = json.loads(result.outputs["exchange"].path.read_text())
    scales = ModelFolder(result.outputs["model"].path).scales()["activations"]
    assert {row["tensor"] for row in table["tensors"]} == {name for name, row in scales.items() if row["shares"] == name}
    assert table["network"] == chosen(result)[0]
    assert (table["ms"]["evidence"], table["ms"]["float"], table["ms"]["runs_on"]) == ("estimated", "fp16", "gpu")
    assert sum(row["ms"] for row in table["tensors"]) > 0
    assert not any(row["float"] for row in table["tensors"])


def test_the_signed_file_is_as_good_as_the_fake_quantized_network(done):
    ctx, result = done
    facts = {"backend": "compile.onnxruntime", "height": 0, "width": 0}
    path = ModelFolder(result.outputs["model"].path).qdq("s8")
    with open_session(path, facts) as session:
        measured = evaluate(session_restorer(session, 8), ctx.data["test"]).mean_psnr
    fake = next(c.measurements[1].value for c in result.candidates if c.chosen)
    assert abs(measured - fake) <= 0.05


def test_without_training_only_calibrations_compete(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "equalise": True}, with_teacher=False)
    assert [c.name for c in result.candidates if "-bc" not in c.name] == ["float", *[n for n in calibrated(result) if "-bc" not in n]]
    assert len(result.candidates) == 5


def test_where_calibration_costs_next_to_nothing_nothing_is_trained(tmp_path):
    _, result = stage(tmp_path, {"enough": 5.0, "max_drop": 5.0, "max_drop_worst": 5.0}, with_teacher=False)
    assert [c.name for c in result.candidates] == ["float", "ptq-percentile", "ptq-mse", "ptq-median"]
    assert any(n.endswith("costs no more than 5 dB: nothing was trained") for n in result.notes)


def test_the_options_of_calibration_can_be_switched_off(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "calibration": ["minmax"], "equalise": False, "correct_bias": False}, with_teacher=False)
    assert [c.name for c in result.candidates] == ["float", "ptq-minmax"]


def test_without_a_teacher_the_float_network_guides(tmp_path):
    _, result = stage(tmp_path, with_teacher=False)
    assert "qat" in [c.name for c in result.candidates]


def test_training_moves_weights_and_step_sizes(tmp_path):
    progress = Words()
    ctx, _ = stage(tmp_path, {"margin": 0}, progress=progress)
    state = torch.load(ctx.workdir / "qat" / "checkpoint.pt", weights_only=True)["weights"]
    steps = torch.cat([v for k, v in state.items() if k.endswith("log_step")])
    assert (steps != 0).float().mean() > 0.8
    assert any(line.startswith("quantize: qat ") and line.endswith(" on held-out pictures") for line in progress.lines)


def test_training_recovers_what_bad_scales_lose(tmp_path):
    folded, ready = quantized(student(**SMALL))
    for q in quantizers(ready).values():
        if q.leader is q:
            q.set_scale(8 * q.scale.item())
    x = photos(1)[0]

    def likeness():
        with torch.no_grad():
            return db(ready(x), folded(x))

    before = likeness()
    train = {"steps": 40, "batch": 2, "crop": 32, "lr": 1e-3}
    weights = {"gt": 0, "response": 1, "feature": 0}
    settings = Qat.model_validate({"train": train, "loss_weights": weights, "teacher_cache": "off"})  # whole images: another context
    recover(ready, folded, pairs("train"), settings, tmp_path, Words(), 1, lr_scale={"*.log_step": 20})
    assert likeness() > before + 3
    assert np.mean([q.log_step.item() for q in quantizers(ready).values() if q.leader is q]) < 0


def test_a_second_run_goes_on_from_the_first_and_hands_on_the_same_bytes(tmp_path):
    ctx, first = stage(tmp_path)
    before = {p.name: p.read_bytes() for p in first.outputs["model"].path.iterdir()}
    again = Words()
    second = STAGE.run(context(STAGE, ctx.workdir, FAST, ctx.inputs, progress=again))
    assert any("already trained" in line for line in again.lines)
    assert {p.name: p.read_bytes() for p in second.outputs["model"].path.iterdir()} == before


def test_the_cheapest_tensors_return_to_float_when_int8_costs_too_much(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "max_drop": 0.05}, fragile(), with_teacher=False)
    assert result.retreated
    assert chosen(result) == ["int8-mixed"]
    facts = result.outputs["model"].facts
    assert facts["float_tensors"] == ["encoder.0.0.expand.act"]
    note = next(n for n in result.notes if n.startswith("retreated: "))
    assert "more than the 0.05 dB allowed: 1 tensor returns to float for " in note
    assert note.endswith("ms (estimated): encoder.0.0.expand.act")
    mixed = next(c for c in result.candidates if c.chosen)
    assert "; in float: encoder.0.0.expand.act" in mixed.reason
    table = json.loads(result.outputs["exchange"].path.read_text())
    assert [row["tensor"] for row in table["tensors"] if row["float"]] == ["encoder.0.0.expand.act"]


def test_one_ruined_image_is_enough_to_return_tensors_to_float(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "max_drop": 100, "max_drop_worst": 0.06}, fragile(), with_teacher=False)
    assert chosen(result) == ["int8-mixed"]
    assert any("dB on one held-out picture, more than the 0.06 dB allowed" in n for n in result.notes)


def test_everything_returns_to_float_when_that_is_not_enough(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "max_drop": 0.0, "mixed": False}, fragile(), with_teacher=False)
    assert result.retreated
    assert chosen(result) == ["float"]
    folder = ModelFolder(result.outputs["model"].path)
    assert not folder.has_int8
    assert "dB on the held-out pictures, more than the 0 dB allowed: all returns to float" in " ".join(result.notes)
    by_name = {m.name: m for m in result.measurements}
    assert by_name["speedup"].value == 1
    assert by_name["psnr"].conditions["precision"] == "fp32"
    assert by_name["size"].conditions == {"file": "float.onnx"}


def test_on_the_host_int8_must_be_faster(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "min_speedup": 1000}, target="host", with_teacher=False)
    assert result.retreated
    assert chosen(result) == ["float"]
    assert not ModelFolder(result.outputs["model"].path).has_int8
    assert any(
        n.startswith("retreated: int8 is ") and n.endswith("at least 1000x is asked for: all returns to float") for n in result.notes
    )


def test_for_another_device_the_hosts_speed_is_a_note(tmp_path):
    _, result = stage(tmp_path, {**PTQ, "min_speedup": 1000}, with_teacher=False)
    assert not result.retreated
    assert ModelFolder(result.outputs["model"].path).has_int8
    assert any(n.endswith("; the target is another device, where compile judges it") for n in result.notes)


def test_a_diverging_training_says_so(tmp_path):
    with pytest.raises(StageFailed, match="qat"):
        stage(tmp_path, {"recover": {"train": {"steps": 20, "batch": 2, "crop": 32, "lr": 1e30, "clip": 0}}})


def test_a_crop_that_does_not_fit_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"qat: train.crop: 36 is no multiple of 8"):
        stage(tmp_path, {"recover": {"train": {"crop": 36}}})


def test_the_declaration():
    assert (dict(STAGE.consumes), STAGE.data) == ({"model": Kind.CHECKPOINT, "teacher?": Kind.CHECKPOINT}, ("train", "calibrate", "test"))
    assert all(field.description for field in STAGE.config.model_fields.values())
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        STAGE.config.model_validate({"imagse": 3})
    assert np.isclose(STAGE.config().recover.loss_weights.feature, 0)
