"""Equal budgets, several seeds, clamps without rounding, and guidance by the float network."""

import numpy as np
import pytest
import torch

from models.fold import fold_batchnorm
from pipeline.errors import UsageError
from quantize.calibrate import observe, set_scales
from quantize.contest import Contest
from quantize.equalise import equalise
from quantize.guide import GuideLoss
from quantize.insert import convolutions, prepare, quantizers, set_rounding
from quantize.settings import Qat
from quantize.stage import STAGE
from quantize.trainings import planned, settings_of, train_all
from tests.quantize.toys import SMALL, checkpoint_of, context, db, photos, quantized, student

TRAIN = {"steps": 3, "batch": 2, "crop": 32}


def contest(tmp_path, **config):
    inputs = {"model": checkpoint_of(student(**SMALL), tmp_path / "model.safetensors")}
    return Contest(context(STAGE, tmp_path / "work", {"recover": {"train": TRAIN}, **config}, inputs))


def start(judge):
    ready = prepare(judge.folded)
    set_scales(ready, observe(ready, judge.images), "percentile")
    return ready


def test_the_plan_names_every_seed_and_ends_with_the_control(tmp_path):
    judge = contest(tmp_path, contenders=["ptq", "qat", "clamp-ptq"], seeds=2, control=True)
    assert [p.name for p in planned(judge)] == ["qat", "qat-2", "clamp-ptq", "clamp-ptq-2", "float-control"]
    assert planned(contest(tmp_path, contenders=["ptq"], control=True)) == []


def test_a_budget_is_shared_equally_and_never_exceeds_the_steps(tmp_path):
    def steps(budget, count):
        config = {"recover": {"train": {**TRAIN, "steps": 100}}, "budget_steps": budget}
        return settings_of(contest(tmp_path, **config), count).train.steps

    assert [steps(None, 3), steps(90, 3), steps(1000, 3)] == [100, 30, 100]
    with pytest.raises(UsageError, match="budget_steps: 2 is less than one step for each of 3 trainings"):
        steps(2, 3)


def test_seeds_differ_and_all_networks_come_back_ready_to_be_written(tmp_path):
    judge = contest(tmp_path, contenders=["ptq", "qat", "clamp-ptq"], seeds=2, control=True)
    ready = start(judge)
    before = {k: v.clone() for k, v in ready.state_dict().items()}
    made = {p.name: n for p, n in train_all(judge, ready, ready)}
    assert all(torch.equal(v, before[k]) for k, v in ready.state_dict().items())
    assert not torch.equal(made["qat"].stem.conv.weight, made["qat-2"].stem.conv.weight)
    assert not torch.equal(made["qat"].stem.conv.weight, made["clamp-ptq"].stem.conv.weight)
    for name in ("qat", "qat-2", "clamp-ptq", "clamp-ptq-2"):
        assert all(q.enabled and q.rounds for q in quantizers(made[name]).values())
    assert not convolutions(made["float-control"])


def test_live_batch_normalisation_is_folded_again_after_training(tmp_path):
    judge = contest(tmp_path, contenders=["ptq", "qat"], batchnorm="live")
    ready = start(judge)
    (_, network), *_ = train_all(judge, ready, ready)
    assert all(c.live is None for c in convolutions(network).values())
    state = torch.load(tmp_path / "work" / "qat" / "checkpoint.pt", weights_only=True)["weights"]
    assert any(k.endswith("batchnorm.running_mean") for k in state)
    x = photos(1)[0]
    with torch.no_grad():
        assert db(network(x), ready(x)) > 25  # three small steps away


def test_steps_of_a_grey_level_are_left_as_they_are(tmp_path):
    judge = contest(tmp_path, contenders=["ptq", "qat", "clamp-ptq"])
    ready = start(judge)
    for training, network in train_all(judge, ready, ready):
        found = quantizers(network)
        assert found["head"].scale.item() == np.float32(1 / 255)
        if training.contender == "qat":
            assert found["stem.act"].log_step.item() != 0


@pytest.mark.parametrize(("feature", "kept"), [(0, False), (1, True)])
def test_where_features_are_compared_training_starts_from_the_inputs_own_channels(tmp_path, feature, kept):
    recover = {"train": {**TRAIN, "steps": 1, "lr": 1e-5}, "loss_weights": {"feature": feature}}
    judge = contest(tmp_path, contenders=["ptq", "qat"], guide="input", recover=recover)
    plain = start(judge)
    equal = prepare(equalise(judge.folded, judge.images))
    set_scales(equal, observe(equal, judge.images), "percentile")
    (_, network), *_ = train_all(judge, equal, plain)
    assert torch.allclose(network.stem.conv.weight, (plain if kept else equal).stem.conv.weight, atol=1e-4)
    assert not torch.allclose(plain.stem.conv.weight, equal.stem.conv.weight, atol=1e-3)


def test_clamping_cuts_and_does_not_round():
    _, ready = quantized(student())
    set_rounding(ready, False)
    q = quantizers(ready)["stem.act"]
    q.set_scale(0.01)
    x = torch.tensor([[0.0142, 1.3, -1.5]])
    assert torch.allclose(q(x), torch.tensor([[0.0142, 1.27, -1.28]]))
    assert not any(c.quantized for c in convolutions(ready).values())


def test_a_clamp_wide_enough_is_the_float_network():
    folded, ready = quantized(student())
    set_rounding(ready, False)
    for q in quantizers(ready).values():
        q.set_scale(1e3)
    x = photos(1)[0]
    with torch.no_grad():
        assert torch.allclose(ready(x), folded(x), atol=1e-5)


def test_a_clamp_learns_from_what_it_cuts():
    _, ready = quantized(student())
    set_rounding(ready, False)
    q = quantizers(ready)["stem.act"]
    q.set_scale(0.01)
    q(torch.tensor([[0.5, 1.0]])).sum().backward()
    assert q.log_step.grad is None or q.log_step.grad.item() == 0
    q(torch.tensor([[0.5, 2.0]])).sum().backward()
    assert q.log_step.grad.item() > 0


def test_a_clamp_may_tighten_and_never_widens():
    _, ready = quantized(student())
    q = quantizers(ready)["stem.act"]
    start = q.scale.item()
    for step, factor in ((0.1, 1.0), (-0.1, np.exp(-0.2))):
        with torch.no_grad():
            q.log_step.fill_(step)
        assert q.start_or_less.item() == pytest.approx(start * factor)


def losses(network, folded, **weights):
    config = Qat.model_validate({"loss": "mse", "loss_weights": {"gt": 0, "response": 0, "feature": 0, **weights}})
    lq = photos(1)[0]
    loss, parts = GuideLoss(config, folded)(network, lq, torch.zeros_like(lq))
    return float(loss.detach()), {k: float(v.detach()) for k, v in parts.items()}


def test_the_guide_is_pleased_by_itself_alone():
    folded, ready = quantized(student())
    for weights in ({"response": 1}, {"feature": 1}):
        assert losses(fold_batchnorm(student()), folded, **weights)[0] == pytest.approx(0, abs=1e-9)
        assert losses(ready, folded, **weights)[0] > 1e-7


def test_features_are_compared_only_when_they_count():
    folded, ready = quantized(student())
    assert set(losses(ready, folded, response=1)[1]) == {"gt", "response"}
    loss, parts = losses(ready, folded, gt=2, response=1, feature=3)
    assert set(parts) == {"gt", "response", "feature"}
    assert loss == pytest.approx(2 * parts["gt"] + parts["response"] + 3 * parts["feature"])
    loss, parts = losses(ready, folded, fft=2)
    assert loss == pytest.approx(2 * parts["fft"])
