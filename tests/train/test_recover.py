from __future__ import annotations

import pytest
import torch

from pipeline.errors import UsageError
from tests.train.toys import ToyNet, ToySource, Words, mse_loss, weights_of
from train.adversarial import PatchAdversary
from train.config import LossWeights, RecoverConfig, TrainConfig
from train.config_losses import Adversarial
from train.determinism import seeded
from train.features import FeatureLoss, attention_distance, feature_loss
from train.losses import LOSSES
from train.recover import recover, train_alone
from train.teacher_loss import TeacherLoss

TRAIN = TrainConfig(steps=4, batch=2, crop=16, lr=1e-2)


def net(seed, **options):
    with seeded(seed):
        return ToyNet(**options)


def batch():
    with seeded("batch"):
        return torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = LossWeights(gt=1.0, response=0.5, feature=0.25, fft=0.1)
    with seeded(3):
        features = FeatureLoss([(0, 8, 0, 8), (1, 16, 1, 16)])
    loss_fn = TeacherLoss(RecoverConfig(loss="mse", loss_weights=weights), net(2), features)
    loss, parts = loss_fn(net(1), *batch())
    assert set(parts) == {"gt", "response", "feature", "fft"}
    wanted = parts["gt"] + 0.5 * parts["response"] + 0.25 * parts["feature"] + 0.1 * parts["fft"]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in loss_fn.teacher.parameters())
    assert all(p.grad is not None for p in features.parameters())


def test_every_part_counts_as_weighted_and_is_the_measure_of_its_name():
    weights = LossWeights(gt=0.0, response=0.0, feature=0.0, response_fft=0.1, attention=2.0, softened=0.5)
    student, teacher = net(1), net(2)
    features = feature_loss(student, teacher, kinds=("attention", "softened"))
    loss, parts = TeacherLoss(RecoverConfig(loss_weights=weights), teacher, features)(student, *batch())
    assert set(parts) == {"gt", "response_fft", "attention", "softened"}
    wanted = 0.1 * parts["response_fft"] + 2 * parts["attention"] + 0.5 * parts["softened"]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    lq, _ = batch()
    assert parts["response_fft"].item() == pytest.approx(LOSSES["fft"](student(lq), teacher(lq)).item(), rel=1e-6)
    pairs = zip(student.features(lq)[1], teacher.features(lq)[1], strict=True)
    assert parts["attention"].item() == pytest.approx(sum(attention_distance(a, b).item() for a, b in pairs) / 2, rel=1e-5)


def test_a_critic_is_one_more_part(tmp_path):
    results = {}
    for weight in (None, 0.1):
        adversary = PatchAdversary(Adversarial(weight=weight, channels=4, layers=1, steps=1)) if weight else None
        student = net(1)
        report = recover(student, net(2), ToySource(), RecoverConfig(train=TRAIN), tmp_path / str(weight), Words(), 1, adversary=adversary)
        results[weight] = weights_of(student), report.scalars
    assert {"adversarial", "critic_loss"} <= set(results[0.1][1]) and "adversarial" not in results[None][1]
    assert not torch.equal(results[None][0], results[0.1][0])


def test_the_teacher_runs_once_per_batch_frozen_and_in_eval_mode():
    class Counting(ToyNet):
        calls = 0

        def features(self, lq):
            assert not self.training
            assert not torch.is_grad_enabled()
            type(self).calls += 1
            return super().features(lq)

    loss_fn = TeacherLoss(RecoverConfig(), Counting(dropout=0.5))
    loss_fn(net(1), *batch())
    assert Counting.calls == 1


def test_without_a_teacher_only_the_ground_truth_counts():
    _, parts = TeacherLoss(RecoverConfig(), None)(net(1), *batch())
    assert set(parts) == {"gt"}


def test_the_student_learns_its_teacher(tmp_path):
    teacher, student = net(2), net(1)
    for layer in (teacher, student):
        layer.last.weight.data.mul_(0.5)
    lq, _ = batch()
    before = (student(lq) - teacher(lq)).abs().mean().item()
    train = TrainConfig(steps=150, batch=4, crop=16, lr=1e-2)
    config = RecoverConfig(train=train, loss="mse", loss_weights=LossWeights(gt=0.0, response=1.0, feature=0.01))
    report = recover(student, teacher, ToySource(), config, tmp_path, Words(), seed=1)
    assert set(report.scalars) == {"loss", "gt", "response", "feature", "lr"}
    with torch.no_grad():
        assert (student(lq) - teacher(lq)).abs().mean().item() < 0.3 * before


def test_recovery_is_reproducible_and_depends_on_the_seed(tmp_path):
    students = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        student = net(1, norm=True)
        recover(student, net(2), ToySource(), RecoverConfig(train=TRAIN), tmp_path / name, Words(), seed)
        students.append(weights_of(student))
    assert torch.equal(students[0], students[1])
    assert not torch.equal(students[0], students[2])


def test_a_crop_that_does_not_fit_is_refused(tmp_path):
    config = RecoverConfig(train=TRAIN.model_copy(update={"crop": 17}))
    with pytest.raises(UsageError) as e:
        recover(net(1), net(2), ToySource(), config, tmp_path, Words(), 1, label="prune")
    assert str(e.value) == "prune: train.crop: 17 is no multiple of 2, which the networks need\nhint: e.g. 16"


def test_images_smaller_than_the_crop_are_refused(tmp_path):
    config = RecoverConfig(train=TRAIN.model_copy(update={"crop": 64}))
    with pytest.raises(UsageError, match="image 'pair"):
        recover(net(1), None, ToySource(side=40), config, tmp_path, Words(), 1)


def test_a_network_without_features_is_said(tmp_path):
    class Plain(torch.nn.Conv2d):
        def features(self, lq):
            return self(lq), []

    words = Words()
    recover(Plain(3, 3, 1), net(2), ToySource(), RecoverConfig(train=TRAIN), tmp_path, words, 1)
    assert "recover: a network has no features to compare, the feature loss is left out" in words.lines


def test_batch_normalisation_over_few_crops_is_said(tmp_path):
    for size, said in ((2, 1), (4, 0)):
        words, settings = Words(), TRAIN.model_copy(update={"steps": 1, "batch": size})
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.BatchNorm2d(3))
        train_alone(network, mse_loss, ToySource(), settings, tmp_path / str(size), words, 1, label="toy")
        assert sum(f"batch normalisation over {size} crops" in line for line in words.lines) == said


def test_norms_that_keep_their_statistics_need_no_crops(tmp_path):
    class Still(torch.nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    words, network = Words(), torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), Still(3))
    settings = TRAIN.model_copy(update={"steps": 1, "batch": 2})
    train_alone(network, mse_loss, ToySource(), settings, tmp_path, words, 1, label="toy")
    assert not any("batch normalisation over" in line for line in words.lines)
