from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from pipeline.errors import StageFailed, ToolchainMissing
from tests.train.toys import Stop, StopAt, ToyCrops, Words, mse_loss, toy_config, toy_network, train_toy, weights_of
from train import state
from train.loop import fit


def same(a, b):
    return torch.equal(weights_of(a), weights_of(b))


@pytest.mark.parametrize(
    ("threads", "options"), [(2, {"steps": 4}), (1, {"ema": 0.9}), (1, {"accumulate": 2}), (1, {"channels_last": False})], ids=str
)
def test_training_is_reproducible_bit_for_bit(tmp_path, threads, options):
    torch.set_num_threads(threads)
    runs = [train_toy(tmp_path / name, toy_config(**options), toy_network(dropout=0.2, norm=True))[0] for name in "ab"]
    torch.set_num_threads(1)
    assert same(*runs)
    assert not same(runs[0], toy_network(dropout=0.2, norm=True))


def test_it_learns(tmp_path):
    words = Words()
    network, report = train_toy(tmp_path, toy_config(steps=150), progress=words)
    lq, gt = (torch.from_numpy(np.stack([ToyCrops()[k][i] for k in range(10_000, 10_008)])) for i in (0, 1))
    with torch.no_grad():
        assert mse_loss(network, lq, gt)[0] < 0.5 * torch.nn.functional.mse_loss(lq, gt)
    assert report.steps == 150
    assert report.steps_per_second > 0
    assert 0 <= report.data_wait_share <= 1
    assert set(report.scalars) == {"loss", "mse", "lr"}
    assert words.updates[-1][:3] == ("toy", 150, 150)
    assert words.updates[-1][3]["loss"] == pytest.approx(report.scalars["loss"])


def test_a_seed_changes_the_result(tmp_path):
    a, _ = train_toy(tmp_path / "a", toy_config(seed=1), toy_network(dropout=0.2))
    b, _ = train_toy(tmp_path / "b", toy_config(seed=2), toy_network(dropout=0.2))
    assert not same(a, b)


def test_the_network_comes_back_resting(tmp_path):
    network, _ = train_toy(tmp_path)
    assert not network.training
    assert all(p.is_contiguous() and p.device.type == "cpu" for p in network.parameters())


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    wanted = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    train_toy(tmp_path)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == wanted
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_finished_training_is_reloaded(tmp_path):
    network, report = train_toy(tmp_path, toy_config(ema=0.9))
    words = Words()
    again, second = train_toy(tmp_path, toy_config(ema=0.9), progress=words)
    assert same(network, again)
    assert not words.updates
    assert words.lines == ["toy: already trained (12 steps)"]
    assert (second.steps, second.seconds, second.scalars) == (report.steps, report.seconds, report.scalars)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"accumulate": 2}], ids=str)
def test_resume_is_exact(tmp_path, options):
    config = toy_config(checkpoint_steps=3, **options)
    whole, _ = train_toy(tmp_path / "whole", config, toy_network(dropout=0.2, norm=True))
    with pytest.raises(Stop):
        train_toy(tmp_path / "cut", config, toy_network(dropout=0.2, norm=True), dataset=StopAt(32))
    words = Words()
    resumed, report = train_toy(tmp_path / "cut", config, toy_network(dropout=0.2, norm=True), progress=words)
    assert words.lines == ["toy: resumed at step 6 of 12"]
    assert report.resumed_at == 6
    assert same(whole, resumed)


def test_options_without_effect_on_the_result_do_not_stop_a_resume(tmp_path):
    network, _ = train_toy(tmp_path, toy_config(log_steps=1, checkpoint_steps=4, workers=0))
    words = Words()
    again, _ = train_toy(tmp_path, toy_config(workers=1), progress=words)
    assert words.lines == ["toy: already trained (12 steps)"]
    assert same(network, again)


def test_other_settings_start_anew(tmp_path):
    train_toy(tmp_path)
    words = Words()
    _, report = train_toy(tmp_path, toy_config(lr=1e-3), progress=words)
    assert report.resumed_at == 0
    assert words.lines == ["toy: checkpoint.pt belongs to another training: this one starts anew"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not really", b"garbage"], ids=["empty", "zip", "garbage"])
def test_a_damaged_checkpoint_starts_anew(tmp_path, damage):
    wanted, _ = train_toy(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/checkpoint.pt").write_bytes(damage)
    words = Words()
    network, _ = train_toy(tmp_path / "bad", progress=words)
    assert same(network, wanted)
    assert words.lines[0].startswith("toy: checkpoint.pt cannot be read (")
    assert words.lines[0].endswith("): training starts anew")


def test_a_truncated_checkpoint_starts_anew(tmp_path):
    wanted, _ = train_toy(tmp_path)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-200])
    assert same(train_toy(tmp_path)[0], wanted)


def test_reading_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    torch.save({"format": state.FORMAT, "fingerprint": "x", "evil": Evil()}, tmp_path / "checkpoint.pt")
    payload, reason = state.read(tmp_path / "checkpoint.pt", "x")
    assert payload is None
    assert "cannot be read" in reason
    assert not (tmp_path / "owned").exists()


def test_an_interrupted_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    state.write(path, {"fingerprint": "x", "value": 1})

    def half(payload, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        state.write(path, {"fingerprint": "x", "value": 2})
    assert state.read(path, "x")[0]["value"] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step(tmp_path, bad):
    calls = []

    def loss_fn(network, lq, gt):
        calls.append(0)
        loss, scalars = mse_loss(network, lq, gt)
        return (loss * bad if len(calls) == 4 else loss), scalars

    with pytest.raises(StageFailed) as e:
        fit(toy_network(), loss_fn, ToyCrops(), toy_config(lr=0.5), tmp_path, Words(), label="teach")
    assert str(e.value).startswith("teach: loss is ")
    assert "in step 3 of 12\nhint: lower its learning rate (train.lr is 0.5" in str(e.value)


def test_a_checkpoint_never_holds_a_weight_that_is_not_finite(tmp_path):
    def loss_fn(network, lq, gt):
        loss = (network(lq) - gt).abs().sum() * 1e38
        return loss, {}

    with pytest.raises(StageFailed):
        fit(toy_network(), loss_fn, ToyCrops(), toy_config(checkpoint_steps=1), tmp_path, Words(), label="toy")
    assert not (tmp_path / "checkpoint.pt").exists()


def test_validation_sees_the_average_and_changes_nothing(tmp_path):
    seen = []

    def validate(network):
        seen.append((network.training, weights_of(network)))
        torch.rand(5)
        return {"psnr": 30.0}

    config = toy_config(ema=0.9)
    plain, _ = train_toy(tmp_path / "plain", config, toy_network(dropout=0.2, norm=True))
    words = Words()
    watched, _ = train_toy(
        tmp_path / "watched", config, toy_network(dropout=0.2, norm=True), progress=words, validate=validate, validate_steps=4
    )
    assert same(plain, watched)
    assert [training for training, _ in seen] == [False] * 3
    assert torch.equal(seen[-1][1], weights_of(watched))
    assert words.lines[0] == "toy, step 4: psnr 30"


def test_gradients_are_clipped(tmp_path):
    norms = []

    def loss_fn(network, lq, gt):
        loss = 1e4 * mse_loss(network, lq, gt)[0]
        network.first.weight.register_post_accumulate_grad_hook(lambda p: norms.append(p.grad.norm().item()))
        return loss, {}

    seen = []
    network = toy_network()
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        seen.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item())
        return original(self, *args, **kwargs)

    torch.optim.AdamW.step = step
    try:
        fit(network, loss_fn, ToyCrops(), toy_config(steps=3, clip=0.5), tmp_path, Words(), label="toy")
    finally:
        torch.optim.AdamW.step = original
    assert max(norms) > 0.5
    assert seen == pytest.approx([0.5] * 3, rel=1e-4)


def test_accumulation_equals_the_whole_batch(tmp_path):
    one, _ = train_toy(tmp_path / "one", toy_config(steps=4, batch=8))
    four, _ = train_toy(tmp_path / "four", toy_config(steps=4, batch=8, accumulate=4))
    assert torch.allclose(weights_of(one), weights_of(four), atol=1e-5)
    assert not same(one, four)


def test_bf16_autocast_covers_the_network(tmp_path):
    seen = []

    def loss_fn(network, lq, gt):
        seen.append(network.first(lq).dtype)
        return mse_loss(network, lq, gt)

    fit(toy_network(), loss_fn, ToyCrops(), toy_config(steps=1, amp="bf16-mixed"), tmp_path, Words(), label="toy")
    assert seen == [torch.bfloat16]


def test_tensorboard_scalars_are_written(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_toy(tmp_path, toy_config(log_steps=5))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"toy/loss", "toy/mse", "toy/lr"}
    assert [e.step for e in events.Scalars("toy/loss")] == [5, 10, 12]


def test_extra_modules_are_trained_and_reloaded(tmp_path):
    def run():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            extra = torch.nn.Conv2d(3, 3, 1)
        before = weights_of(extra)

        def loss_fn(network, lq, gt):
            return mse_loss(torch.nn.Sequential(network, extra), lq, gt)

        fit(toy_network(), loss_fn, ToyCrops(), toy_config(), tmp_path, Words(), label="toy", extra_modules=[extra])
        return before, weights_of(extra)

    before, after = run()
    assert not torch.equal(before, after)
    assert torch.equal(run()[1], after)


def test_lr_scale_slows_what_it_names(tmp_path):
    start = toy_network()
    frozen, _ = train_toy(tmp_path, lr_scale={"network.first.*": 0.0})
    assert torch.equal(start.first.weight, frozen.first.weight)
    assert not torch.equal(start.last.weight, frozen.last.weight)


@pytest.mark.slow
def test_a_compiled_step_trains_the_same_and_resumes_exactly(tmp_path):
    plain, _ = train_toy(tmp_path / "plain", toy_config(), toy_network())
    config = toy_config(compile=True, checkpoint_steps=3)
    whole, _ = train_toy(tmp_path / "whole", config, toy_network())
    torch.testing.assert_close(weights_of(plain), weights_of(whole), rtol=1e-4, atol=1e-5)
    with pytest.raises(Stop):
        train_toy(tmp_path / "cut", config, toy_network(), dataset=StopAt(32))
    words = Words()
    resumed, _ = train_toy(tmp_path / "cut", config, toy_network(), progress=words)
    assert "resumed" in words.lines[0]
    assert same(whole, resumed)


def test_compiling_needs_a_compiler_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolchainMissing) as caught:
        train_toy(tmp_path, toy_config(compile=True))
    assert (caught.value.where, caught.value.hint) == ("toy: train.compile", "apt-get install g++")
