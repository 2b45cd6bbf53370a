"""The whole stage on a small student: what it hands on, what it measures, and how it retreats."""

import json
from functools import partial

import pytest
import torch

from eval.cost import count_macs
from eval.quality import QualityResult
from models import checkpoint
from models.arch import load_arch
from pipeline.contract import Evidence, Kind
from pipeline.errors import UsageError
from pipeline.target import TargetView, load_target
from prune.clock import EstimatorClock
from prune.ladder import complaint
from prune.quality import Loss, loss_between
from prune.shrink import widths
from prune.stage import STAGE
from tests.quantize.toys import Echo, artifact, checkpoint_of, context, pairs, student, teacher
from tests.train.toys import Words

WIDE = {"widths": [24, 32], "depths": [1, 1], "decoder_depths": [0]}
QUICK = {
    "recover": {"train": {"steps": 3, "batch": 2, "crop": 32}},
    "seconds": 0.1,
    "min_speedup": 0,
    "max_drop": 50,
    "max_drop_worst": 50,
    "sensitivity": {"images": 2, "side": 64, "seconds": 0.02},
    "recentre": 2,
}
FAST = {"ratio": 0.5, **QUICK}
NAMES = {"psnr", "ssim", "psnr_worst5", "psnr_gain", "params", "macs", "size", "latency_p50", "speedup"}


def stage(tmp_path, config=(), network=None, with_teacher=True, progress=None, make=pairs, target="jetson-xavier"):
    inputs = {"model": checkpoint_of(network or student(**WIDE), tmp_path / "input.safetensors")}
    if with_teacher:
        inputs["teacher"] = teacher(tmp_path / "teacher.safetensors")
    settings = {**(QUICK if "to" in config else FAST), **dict(config)}
    ctx = context(STAGE, tmp_path / "work", settings, inputs, target, progress, make)
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
    assert after.history[1]["goal"] == "ratio-0.50"
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
    assert by_name["speedup"].value > 1
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
    assert rows["head"] == {"before": 12, "after": 12, "group": None}
    assert rows["decoder.0.up.conv.conv"] == {"before": 24, "after": 8, "group": "stem.conv"}
    assert result.notes[-1].startswith("channels stem.conv 24→")
    assert all(name in result.notes[-1] for name in before)


def test_the_price_of_every_group_is_reported(done):
    ctx, result = done
    table = json.loads(result.outputs["sensitivity"].path.read_text())
    assert result.outputs["sensitivity"].kind is Kind.REPORT
    groups = {row["group"] for row in json.loads(result.outputs["widths"].path.read_text()).values()} - {None}
    assert {p["group"] for p in table["prices"]} == groups
    assert table["conditions"] == {"model": "roofline", "backend": "tensorrt", "precision": "int8", "runs_on": "gpu", "frame": "1920x1080"}
    assert result.notes[0].startswith(f"sensitivity of {len(groups)} groups, ")


def test_the_candidate_says_what_it_reached(done):
    (candidate,) = done[1].candidates
    assert candidate.chosen
    assert candidate.name == "ratio-0.50"
    assert "x as fast as the input, " in candidate.reason
    assert " dB on the calibration set (worst image " in candidate.reason
    by_name = {m.name: m for m in candidate.measurements}
    assert by_name.keys() == {"speedup", "psnr_drop", "psnr_drop_worst", "ssim_drop"}
    assert by_name["psnr_drop_worst"].value >= by_name["psnr_drop"].value
    assert by_name["psnr_drop"].samples == 3


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
    assert result.notes[-1] == "retreated: nothing paid, so the network is handed on unpruned"
    assert result.outputs["model"].path.read_bytes() == ctx.inputs["model"].path.read_bytes()
    assert {label for label, *_ in progress.updates} == {"prune: sensitivity"}
    assert {m.name: m.value for m in result.measurements}["speedup"] == 1


def test_a_lower_ratio_is_tried_when_quality_drops_too_much(tmp_path):
    network = student(**WIDE)
    still = {"steps": 1, "batch": 2, "crop": 32, "lr": 1e-9, "min_lr": 0}
    _, result = stage(tmp_path, {"max_drop": 0.0, "recover": {"train": still}}, network, make=partial(Echo, network))
    assert result.retreated
    assert [c.name for c in result.candidates][:2] == ["ratio-0.50", "ratio-0.33"]
    assert result.candidates[0].reason.endswith("), more than 0 dB lost")


def test_a_retreat_that_succeeds_says_from_where(tmp_path, monkeypatch):
    progress = Words()
    asked = iter([", more than 1 dB lost", ""])
    monkeypatch.setattr("prune.ladder.complaint", lambda *_: next(asked))
    _, result = stage(tmp_path, progress=progress)
    assert result.retreated
    assert [(c.name, c.chosen) for c in result.candidates] == [("ratio-0.50", False), ("ratio-0.33", True)]
    assert "retreated from ratio-0.50 to ratio-0.33" in result.notes
    assert any(line.startswith("prune: ratio-0.50: ") for line in progress.lines)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (Loss(0.1, 0.2, "cat", 0.0, 4), ""),
        (Loss(0.31, 0.2, "cat", 0.0, 4), ", more than 0.3 dB lost"),
        (Loss(0.1, 0.6, "cat", 0.0, 4), ", more than 0.5 dB lost on 'cat'"),
        (Loss(float("nan"), 0.0, "cat", 0.0, 4), ", more than 0.3 dB lost"),
    ],
)
def test_the_mean_and_the_single_worst_image_are_judged(loss, said):
    assert complaint(loss, 0.3, 0.5) == said


def test_the_loss_is_that_of_the_image_that_lost_most():
    before = QualityResult(("a", "b"), (30.0, 28.0), (0.9, 0.8), (0.0, 0.0))
    loss = loss_between(before, QualityResult(("a", "b"), (30.1, 27.5), (0.9, 0.7), (0.0, 0.0)))
    assert (loss.image, loss.images) == ("b", 2)
    assert [loss.mean, loss.worst, loss.ssim] == pytest.approx([0.2, 0.5, 0.05])
    assert str(loss) == "-0.20 dB on the calibration set (worst image -0.50 dB, SSIM -0.0500)"


def test_a_budget_of_macs_is_kept(tmp_path):
    network = student(**WIDE)
    budget = 0.7 * count_macs(network) / 1e9
    _, result = stage(tmp_path, {"to": {"macs": budget}, "max_ratio": 0.7}, network)
    assert not result.retreated
    assert 0.8 * budget < {m.name: m.value for m in result.measurements}["macs"] <= budget
    assert result.candidates[0].name == f"macs-{budget:.3f}G"


def test_a_budget_of_latency_is_kept_by_the_targets_estimate(tmp_path):
    network = student(**WIDE)
    target = TargetView(load_target("jetson-xavier"), STAGE.reads_target)
    clock = EstimatorClock(target, tmp_path)
    budget = 0.85 * clock.saved(network, {}).base
    _, result = stage(tmp_path, {"to": {"latency_ms": budget}, "max_ratio": 0.7}, network)
    (candidate,) = result.candidates
    assert candidate.name == f"latency-{budget:.2f}ms"
    after = checkpoint.load(result.outputs["model"].path).module
    assert 0.75 * budget < clock.saved(after, {}).base <= budget


def test_a_speedup_is_measured_where_the_target_is_this_machine(tmp_path):
    network = student(widths=[48, 64], depths=[0, 1], decoder_depths=[0])
    ctx, result = stage(tmp_path, {"to": {"speedup": 1.5}, "max_ratio": 0.8}, network, target="host")
    table = json.loads(result.outputs["sensitivity"].path.read_text())
    source = "estimated" if table["unstable"] else "host"  # where other work disturbs the timings
    assert (table["evidence"], table["conditions"]["backend"], table["conditions"]["frame"]) == (source, "onnxruntime", "1280x720")
    assert result.candidates[0].name == "speedup-1.50"
    assert all(m.evidence is Evidence.HOST for c in result.candidates for m in c.measurements)


def test_a_budget_that_is_met_already_prunes_nothing(tmp_path):
    ctx, result = stage(tmp_path, {"to": {"latency_ms": 1e6}})
    assert not result.retreated
    assert [(c.name, c.chosen, c.reason) for c in result.candidates] == [
        ("unchanged", True, "the budget is met already: nothing is pruned")
    ]
    assert result.outputs["model"].path.read_bytes() == ctx.inputs["model"].path.read_bytes()


def test_a_budget_out_of_reach_is_said_and_retreated_from(tmp_path):
    _, result = stage(tmp_path, {"to": {"speedup": 50}, "max_ratio": 0.3, "retreat": [0.03]})
    first, second = result.candidates[:2]
    assert first.name == "speedup-50.00"
    assert "can be saved at most under max_ratio 0.3, 98% is asked for: not trained" in first.reason
    assert second.name.startswith("speedup-1.0")
    assert result.retreated


def test_the_same_cost_can_be_shared_by_sensitivity(tmp_path):
    network = student(**WIDE)
    with torch.no_grad():  # most channels of one group do nothing
        network.encoder[1][0].expand.conv.weight[8:] *= 1e-4
        network.encoder[1][0].project.conv.weight[:, 8:] *= 1e-4
    ctx, result = stage(tmp_path, {"ratio": 0.2, "allocate": "sensitivity", "max_ratio": 0.8}, network)
    rows = json.loads(result.outputs["widths"].path.read_text())
    idle = rows["encoder.1.0.expand.conv"]
    assert idle["after"] / idle["before"] < min(rows[n]["after"] / rows[n]["before"] for n in ("stem.conv", "encoder.1.0.project.conv"))


@pytest.mark.parametrize("importance", ["taylor", "random"])
def test_other_rankings_prune_other_channels_to_the_same_widths(done, importance, tmp_path):
    _, result = stage(tmp_path, {"importance": importance})
    one, other = (checkpoint.load(r.outputs["model"].path) for r in (done[1], result))
    assert widths(one.module) == widths(other.module)
    assert other.history[1]["importance"] == importance
    assert not torch.equal(one.module.stem.conv.weight, other.module.stem.conv.weight)


def test_rounds_share_the_steps(tmp_path):
    ctx, _ = stage(tmp_path, {"rounds": 3, "recover": {"train": {"steps": 6, "batch": 2, "crop": 32}}})
    for round_ in (1, 2, 3):
        state = torch.load(ctx.workdir / "ratio-0.50" / f"round-{round_}" / "checkpoint.pt", weights_only=True)
        assert state["done"] == 2


def test_it_goes_without_a_teacher(tmp_path):
    _, result = stage(tmp_path, with_teacher=False)
    assert not result.retreated


def test_a_second_run_goes_on_from_the_first_and_hands_on_the_same_bytes(tmp_path):
    ctx, first = stage(tmp_path, {"allocate": "sensitivity"})
    before, plan = first.outputs["model"].path.read_bytes(), (ctx.workdir / "plan-1.json").stat().st_mtime_ns
    again = Words()
    second = STAGE.run(context(STAGE, ctx.workdir, {**FAST, "allocate": "sensitivity"}, ctx.inputs, progress=again))
    assert (ctx.workdir / "plan-1.json").stat().st_mtime_ns == plan
    assert any("already trained" in line for line in again.lines)
    assert "prune: sensitivity was measured already" in again.lines
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
    assert STAGE.reads_target == ("channel_multiple", "is_host", "frame", "rates", "backends")
    assert all(field.description for field in STAGE.config.model_fields.values())
    for wrong in ({"ratoi": 0.3}, {"ratio": 1.0}, {"ratio": 0}, {"rounds": 0}, {"to": {"speedup": 1.0}}, {"importance": "l3"}):
        with pytest.raises(ValueError, match="PruneConfig"):
            STAGE.config.model_validate(wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ratio": 0.2, "to": {"speedup": 2}}, "give either ratio or to"),
        ({"to": {"speedup": 2}, "allocate": "uniform"}, "a budget .to. is shared out by sensitivity; uniform takes a ratio"),
        ({"to": {"speedup": 2, "macs": 1}}, "give exactly one of latency_ms, macs and speedup"),
        ({"to": {}}, "give exactly one of latency_ms, macs and speedup"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        STAGE.config.model_validate(wrong)
