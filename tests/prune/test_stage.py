"""The whole stage on a small student: what it hands on, what it measures, and how it retreats."""

import json
from functools import partial

import pytest
import torch

from models import checkpoint
from models.arch import load_arch
from pipeline.contract import Evidence, Kind
from pipeline.errors import UsageError
from prune.shrink import widths
from prune.stage import STAGE
from tests.quantize.toys import Echo, artifact, checkpoint_of, context, pairs, student, teacher
from tests.train.toys import Words

WIDE = {"widths": [24, 32], "depths": [1, 1], "decoder_depths": [1]}
FAST = {"ratio": 0.5, "recover": {"train": {"steps": 3, "batch": 2, "crop": 32}}, "seconds": 0.05, "max_drop": 50}
NAMES = {"psnr", "ssim", "psnr_worst5", "psnr_gain", "params", "macs", "size", "latency_p50", "speedup"}


def stage(tmp_path, config=(), network=None, with_teacher=True, progress=None, make=pairs):
    inputs = {"model": checkpoint_of(network or student(**WIDE), tmp_path / "input.safetensors")}
    if with_teacher:
        inputs["teacher"] = teacher(tmp_path / "teacher.safetensors")
    ctx = context(STAGE, tmp_path / "work", {**FAST, **dict(config)}, inputs, "jetson-xavier", progress, make)
    return ctx, STAGE.run(ctx)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return stage(tmp_path_factory.mktemp("stage"))


def test_it_hands_on_a_smaller_network_with_its_history(done):
    ctx, result = done
    before, after = (checkpoint.load(a.path) for a in (ctx.inputs["model"], result.outputs["model"]))
    assert result.outputs["model"].kind is Kind.CHECKPOINT
    assert sum(widths(after.module).values()) < 0.75 * sum(widths(before.module).values())
    assert [h["stage"] for h in after.history] == ["toy", "prune"]
    assert after.history[1]["ratio"] == 0.5
    assert result.outputs["model"].facts["widths"] == widths(after.module)
    assert not result.retreated
    assert len(list(result.outputs["samples"].path.glob("*.png"))) == 2


def test_the_checkpoint_is_the_network_that_was_trained_bit_for_bit(done):
    ctx, result = done
    state = torch.load(ctx.workdir / "ratio-0.50" / "round-1" / "checkpoint.pt", weights_only=True)["weights"]
    loaded = checkpoint.load(result.outputs["model"].path).module.state_dict()
    assert all(torch.equal(state[f"network.{name}"], tensor) for name, tensor in loaded.items())


def test_it_measures_what_it_hands_on(done):
    _, result = done
    by_name = {m.name: m for m in result.measurements}
    assert by_name.keys() == NAMES
    assert all(m.finite and m.evidence is Evidence.HOST for m in by_name.values())
    assert len(by_name["psnr"].values) == 2
    assert by_name["speedup"].value > 1.05
    assert by_name["speedup"].conditions["against"] == "the stage's input"
    assert {k: by_name["latency_p50"].conditions[k] for k in ("frame", "threads", "backend", "precision")} == {
        "frame": "256x256",
        "threads": 1,
        "backend": "onnxruntime",
        "precision": "fp32",
    }


def test_every_layers_width_is_reported(done):
    ctx, result = done
    rows = json.loads(result.outputs["widths"].path.read_text())
    before = widths(checkpoint.load(ctx.inputs["model"].path).module)
    assert {n: r["before"] for n, r in rows.items()} == before
    assert rows["head"] == {"before": 12, "after": 12}
    assert result.notes[-1].startswith("channels stem.conv 24→")
    assert all(name in result.notes[-1] for name in before)


def test_the_candidate_says_what_it_reached(done):
    (candidate,) = done[1].candidates
    assert candidate.chosen
    assert candidate.name == "ratio-0.50"
    assert "x as fast as the input, " in candidate.reason
    assert candidate.reason.endswith("dB on the calibration set")
    assert [m.name for m in candidate.measurements] == ["speedup"]


def test_what_is_not_faster_is_not_trained_and_the_input_is_handed_on_unchanged(tmp_path):
    progress = Words()
    ctx, result = stage(tmp_path, {"min_speedup": 1000}, progress=progress)
    assert result.retreated
    assert [(c.name, c.chosen) for c in result.candidates] == [
        ("ratio-0.50", False),
        ("ratio-0.33", False),
        ("ratio-0.17", False),
        ("unchanged", True),
    ]
    assert all(c.reason.endswith("x as fast as the input, at least 1000x is asked for: not trained") for c in result.candidates[:3])
    assert result.notes[-1] == "retreated: no ratio paid, so the network is handed on unpruned"
    assert result.outputs["model"].path.read_bytes() == ctx.inputs["model"].path.read_bytes()
    assert progress.updates == []
    assert {m.name: m.value for m in result.measurements}["speedup"] == 1


def test_a_lower_ratio_is_tried_when_quality_drops_too_much(tmp_path):
    network = student(**WIDE)
    still = {"steps": 1, "batch": 2, "crop": 32, "lr": 1e-9, "min_lr": 0}
    _, result = stage(tmp_path, {"max_drop": 0.0, "recover": {"train": still}}, network, make=partial(Echo, network))
    assert result.retreated
    assert [c.name for c in result.candidates][:2] == ["ratio-0.50", "ratio-0.33"]
    assert result.candidates[0].reason.endswith("dB on the calibration set, more than 0 dB lost")


def test_a_retreat_that_succeeds_says_from_where(tmp_path, monkeypatch):
    progress = Words()
    asked = iter([10.0, 0.0, 0.0])
    monkeypatch.setattr("prune.ladder.drop_of", lambda *_: next(asked))
    _, result = stage(tmp_path, {"max_drop": 1}, progress=progress)
    assert result.retreated
    assert [(c.name, c.chosen) for c in result.candidates] == [("ratio-0.50", False), ("ratio-0.33", True)]
    assert "retreated from ratio 0.50 to 0.33" in result.notes
    assert any(line.startswith("prune: ratio-0.50: ") for line in progress.lines)


def test_rounds_share_the_steps(tmp_path):
    ctx, _ = stage(tmp_path, {"rounds": 3, "recover": {"train": {"steps": 6, "batch": 2, "crop": 32}}})
    for round_ in (1, 2, 3):
        state = torch.load(ctx.workdir / "ratio-0.50" / f"round-{round_}" / "checkpoint.pt", weights_only=True)
        assert state["done"] == 2


def test_it_goes_without_a_teacher(tmp_path):
    _, result = stage(tmp_path, with_teacher=False)
    assert not result.retreated


def test_a_second_run_goes_on_from_the_first_and_hands_on_the_same_bytes(tmp_path):
    ctx, first = stage(tmp_path)
    before = first.outputs["model"].path.read_bytes()
    again = Words()
    second = STAGE.run(context(STAGE, ctx.workdir, FAST, ctx.inputs, progress=again))
    assert any("already trained" in line for line in again.lines)
    assert second.outputs["model"].path.read_bytes() == before


def test_a_network_whose_configuration_has_no_widths_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    network = torch.nn.Module()
    network = load_arch("tests.prune.fixed:Plain").build(load_arch("tests.prune.fixed:Plain").config())
    checkpoint.save(path, network, "tests.prune.fixed:Plain")
    with pytest.raises(UsageError, match=r"prune: a pruned tests.prune.fixed:Plain cannot be rebuilt from its configuration") as e:
        STAGE.run(context(STAGE, tmp_path / "work", FAST, {"model": artifact(path)}))
    assert e.value.hint == "prune a student, whose configuration holds every width"


def test_the_declaration():
    assert (dict(STAGE.consumes), STAGE.data) == ({"model": Kind.CHECKPOINT, "teacher?": Kind.CHECKPOINT}, ("train", "calibrate", "test"))
    assert STAGE.reads_target == ("channel_multiple",)
    assert all(field.description for field in STAGE.config.model_fields.values())
    for wrong in ({"ratoi": 0.3}, {"ratio": 1.0}, {"ratio": 0}, {"rounds": 0}):
        with pytest.raises(ValueError, match="PruneConfig"):
            STAGE.config.model_validate(wrong)
