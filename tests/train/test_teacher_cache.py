"""The teacher's answers, kept: what they are, that they are whole, and that training with them is exact."""

from __future__ import annotations

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch

from data.crops import CropDataset
from models.arch import build
from pipeline.errors import StageFailed, UsageError
from tests.train.toys import Stop, ToyNet, ToySource, Words, weights_of
from train.config import LossWeights, RecoverConfig, TrainConfig
from train.determinism import seeded
from train.recover import recover
from train.teacher_cache import TeacherCache, open_cache
from train.teacher_files import file_of
from train.teachers import Ensemble

TRAIN = TrainConfig(steps=6, batch=2, crop=16, lr=1e-2, seed=1)
WEIGHTS = LossWeights(response=1.0, feature=0.1, attention=0.1)


def net(seed, **options):
    with seeded(seed):
        return ToyNet(**options)


def settings(mode="on", **changes):
    return RecoverConfig(train=TRAIN, loss_weights=WEIGHTS, teacher_cache=mode).model_copy(update=changes)


class Counting(ToyNet):
    """Counts the images that it answers to."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def features(self, lq):
        self.seen += len(lq)
        return super().features(lq)


def opened(tmp_path, teacher=None, source=None, config=None, wanted=(True, (0, 1)), progress=None):
    config = config or settings()
    return open_cache(teacher or net(2), source or ToySource(), config, config.train, wanted, tmp_path, progress or Words(), "toy")


def trained(tmp_path, config=None, teacher=None, progress=None, source=None, **options):
    student, config, progress = net(1), config or settings(), progress or Words()
    report = recover(student, teacher or net(2), source or ToySource(), config, tmp_path, progress, 1, label="toy", **options)
    return weights_of(student), report


def files(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.safetensors")}


def test_the_answers_are_the_teacher_s_to_the_whole_image(tmp_path):
    teacher, source = net(2), ToySource()
    cache = opened(tmp_path, teacher, source)
    lq = torch.from_numpy(source[1].lq.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.no_grad():
        output, (fine, coarse) = teacher.eval().features(lq)
    for found, wanted, scale in zip(cache.cut(1, 8, 4, 16), (output, fine, coarse), (1, 1, 2), strict=True):
        window = wanted[0, :, 8 // scale : 24 // scale, 4 // scale : 20 // scale].permute(1, 2, 0).numpy()
        assert (found.dtype, found.shape) == (np.float16, window.shape)
        assert np.allclose(found, window, rtol=2**-10, atol=1e-5)
    assert cache.align == 2


def test_an_image_of_any_size_is_padded_as_restoring_does(tmp_path):
    cache = opened(tmp_path, net(2), ToySource(side=41))
    assert [a.shape for a in cache.cut(0, 24, 24, 16)] == [(16, 16, 3), (16, 16, 8), (8, 8, 16)]


def test_a_crop_and_its_answers_show_the_same_place(tmp_path):
    class Same(ToyNet):
        def features(self, lq):
            return lq, [lq, torch.nn.functional.avg_pool2d(lq, 2)]

    cache = opened(tmp_path, Same())
    crops = CropDataset(ToySource(), 16, 1, 12, beside=cache)
    for k in range(12):
        lq, _, response, fine, coarse = crops[k]
        assert np.allclose(response, lq, atol=1e-3) and np.array_equal(fine, response)
        assert np.allclose(coarse, torch.nn.functional.avg_pool2d(torch.from_numpy(lq)[None], 2)[0], atol=1e-3)


def test_each_image_is_answered_once_and_a_second_training_asks_nothing(tmp_path):
    teacher = Counting()
    first, report = trained(tmp_path, teacher=teacher)
    probes = teacher.seen - 3
    assert report.teacher == "the teacher was asked once about each of 3 images"
    assert probes <= 2  # of the features' sizes
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "checkpoint.pt").unlink()
    teacher.seen = 0
    again, _ = trained(tmp_path, teacher=teacher)
    assert teacher.seen == probes
    assert torch.equal(first, again)


def test_the_same_config_twice_gives_the_same_bytes(tmp_path):
    a, _ = trained(tmp_path / "a")
    b, _ = trained(tmp_path / "b")
    assert torch.equal(a, b)
    assert files(tmp_path / "a") == files(tmp_path / "b") != {}


def test_online_and_kept_answers_differ_and_both_matter(tmp_path):
    kept, _ = trained(tmp_path / "on")
    online, report = trained(tmp_path / "off", settings("off"))
    alone, _ = trained(tmp_path / "alone", settings("on", loss_weights=LossWeights(response=0, feature=0)))
    assert report.teacher == "the teacher was asked about every crop"
    assert not torch.equal(kept, online) and not torch.equal(kept, alone)
    assert not (tmp_path / "alone" / "teacher-cache").exists()


def test_an_interrupted_filling_goes_on_where_it_was(tmp_path):
    class Cut(ToySource):
        def __getitem__(self, index):
            if index == 2:
                raise Stop
            return super().__getitem__(index)

    with pytest.raises(Stop):
        trained(tmp_path / "cut", source=Cut())
    assert len(files(tmp_path / "cut")) == 2
    a, _ = trained(tmp_path / "cut")
    b, _ = trained(tmp_path / "whole")
    assert torch.equal(a, b) and files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-10]), lambda p: flip(p, -1), lambda p: p.write_bytes(b"")])
def test_a_damaged_file_is_computed_anew(tmp_path, damage):
    folder = opened(tmp_path).folder
    before = files(folder)
    damage(file_of(folder, 1))
    assert files(folder) != before
    words = Words()
    opened(tmp_path, progress=words)
    assert words.lines == ["toy: 0000001.safetensors of the teacher's answers is damaged and computed anew"]
    assert files(folder) == before


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_file_that_vanishes_while_training_is_said(tmp_path):
    cache = opened(tmp_path)
    file_of(cache.folder, 0).unlink()
    with pytest.raises(StageFailed, match=r"0000000\.safetensors: a teacher's answer cannot be read .*\nhint: run again"):
        cache.cut(0, 0, 0, 16)


def test_what_decides_the_answers_names_their_folder(tmp_path):
    class Other(ToySource):
        def digest(self):
            return "1" * 64

    folders = [
        opened(tmp_path).folder,
        opened(tmp_path, net(3)).folder,
        opened(tmp_path, source=Other()).folder,
        opened(tmp_path / "alone", wanted=(True, ())).folder,
        opened(tmp_path, config=settings(train=TRAIN.model_copy(update={"amp": "bf16-mixed"}))).folder,
    ]
    assert len(set(folders)) == 5
    assert opened(tmp_path, net(2)).folder == folders[0]


def test_what_does_not_fit_is_said_with_the_size_it_needs(tmp_path):
    big = settings("on", cache_gb=1e-6)
    with pytest.raises(UsageError) as e:
        trained(tmp_path, big)
    assert str(e.value) == (
        "toy: teacher_cache: the teacher's answers to 3 images need 0.1 GB, and cache_gb is 1e-06\n"
        "hint: set cache_gb to 0.1, compare coarse features alone (feature_scales: [0, ..., 1]), or teacher_cache: off"
    )
    assert files(tmp_path) == {}
    words = Words()
    long = TRAIN.model_copy(update={"steps": 20})
    _, report = trained(tmp_path / "auto", settings("auto", cache_gb=1e-6, train=long), progress=words)
    assert report.teacher.startswith("the teacher was asked about every crop: the teacher's answers to 3 images need 0.1 GB")
    assert f"toy: {report.teacher}" in words.lines


def test_images_that_grow_beyond_the_limit_are_refused_once(tmp_path):
    class Growing(ToySource):
        asked = 0

        def __getitem__(self, index):
            type(self).asked += 1
            self.side = 40 if index == 0 else 400
            return super().__getitem__(index)

    limit = settings("on", cache_gb=1e-3)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"need 0\.1 GB, and cache_gb is 0\.001"):
            opened(tmp_path, net(2), Growing(), limit, wanted=(True, ()))
        assert files(tmp_path) == {}
    assert Growing.asked == 3  # the third is one too many; the second attempt asks for none


def test_a_full_disk_is_an_error_even_with_auto(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(StageFailed, match=r"need 0\.1 GB, and 0 GB are free in .*\nhint: free some space, or set teacher_cache: off"):
        trained(tmp_path, settings("auto", train=TRAIN.model_copy(update={"steps": 20})))


def test_augmentation_that_cannot_be_followed(tmp_path):
    noisy = TRAIN.model_copy(update={"augment": TRAIN.augment.model_copy(update={"noise": (0.0, 0.1), "channel_shuffle": True})})
    with pytest.raises(UsageError, match=r"train\.augment's noise, channel_shuffle changes what the teacher would answer\nhint: "):
        trained(tmp_path, settings("on", train=noisy))
    auto, report = trained(tmp_path / "auto", settings("auto", train=noisy))
    online, _ = trained(tmp_path / "off", settings("off", train=noisy))
    assert "train.augment's noise" in report.teacher
    assert torch.equal(auto, online)


def test_auto_keeps_answers_where_that_is_less_work(tmp_path):
    _, short = trained(tmp_path / "short", settings("auto"))
    _, long = trained(tmp_path / "long", settings("auto", train=TRAIN.model_copy(update={"steps": 10})))
    assert short.teacher.endswith("the images have 0.0048 million pixels, and all crops together 0.00307")
    assert long.teacher == "the teacher was asked once about each of 3 images"


def test_values_beyond_float16_are_said(tmp_path):
    loud = net(2)
    loud.first.weight.data.mul_(1e6)
    with pytest.raises(UsageError, match=r"the teacher's response reaches .* on image 'pair0', more than float16 holds"):
        trained(tmp_path, teacher=loud)


def test_features_that_no_stride_cuts_are_said(tmp_path):
    class Odd(ToyNet):
        def features(self, lq):
            return lq, [torch.nn.functional.interpolate(lq, (21, 21))]

    with pytest.raises(UsageError, match=r"features of 21 pixels for an image of 64 cannot be cut in step with crops"):
        opened(tmp_path, Odd(), wanted=(True, (0,)))


def test_another_process_reads_the_same(tmp_path):
    cache = opened(tmp_path)
    cache.cut(0, 0, 0, 16)
    copy = pickle.loads(pickle.dumps(cache))
    assert isinstance(copy, TeacherCache)
    assert all(np.array_equal(a, b) for a, b in zip(copy.cut(2, 4, 8, 16), cache.cut(2, 4, 8, 16), strict=True))


@pytest.mark.slow
def test_data_processes_give_the_same_training(tmp_path):
    alone, _ = trained(tmp_path / "alone")
    helped, _ = trained(tmp_path / "helped", settings(train=TRAIN.model_copy(update={"workers": 2})))
    assert torch.equal(alone, helped)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path):
    def end(network):
        raise Stop

    train = TRAIN.model_copy(update={"checkpoint_steps": 1})
    with pytest.raises(Stop):
        trained(tmp_path / "cut", settings(train=train), validate=end, validate_steps=3)
    cut, report = trained(tmp_path / "cut", settings(train=train))
    whole, _ = trained(tmp_path / "whole", settings(train=train))
    assert report.resumed_at == 2
    assert torch.equal(cut, whole)


def test_an_ensemble_is_the_mean_and_the_first_one_s_features():
    a, b = net(2).eval(), net(3, width=4).eval()
    lq = torch.rand(1, 3, 16, 16)
    both = Ensemble([a, b], (3.0, 1.0))
    output, features = both.features(lq)
    assert torch.allclose(output, 0.75 * a(lq) + 0.25 * b(lq), atol=1e-6) and torch.equal(output, both(lq))
    assert all(torch.equal(x, y) for x, y in zip(features, a.features(lq)[1], strict=True))
    assert torch.allclose(Ensemble([a, b])(lq), (a(lq) + b(lq)) / 2, atol=1e-6)
    assert Ensemble([a, build("student", {})]).size_multiple == 8
    for weights in [(1.0,), (0.0, 0.0), (-1.0, 2.0)]:
        with pytest.raises(ValueError, match="weights for 2 networks"):
            Ensemble([a, b], weights)


@pytest.mark.parametrize("arch", ["nafnet", "mimounet", "srn", "deblurgan"])
def test_every_teacher_s_answers_can_be_kept(tmp_path, arch):
    from tests.models.helpers import small
    from train.features import feature_loss

    teacher, source = small(arch), ToySource(count=1, side=72)
    features = feature_loss(net(1), teacher)
    wanted = features.wanted if features is not None else ()
    cache = opened(tmp_path, teacher, source, wanted=(True, wanted))
    arrays = cache.cut(0, cache.align, 0, 64)
    assert arrays[0].shape == (64, 64, 3)
    assert [a.shape[0] for a in arrays[1:]] == [64 // s for s in cache.kept.strides]
