"""A teacher's answers that several trainings have in common."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
import torch

from pipeline.errors import UsageError
from pipeline.shared import drop
from tests.train.test_teacher_cache import Counting, files, net, opened, settings, trained
from tests.train.toys import ToySource
from train.config import LossWeights
from train.teacher_files import file_of

RESPONSE = {"loss_weights": LossWeights(response=1.0, feature=0)}


def folders(root):
    return sorted(p.name.partition("-")[2] for p in root.iterdir() if p.is_dir())


def test_who_compares_the_response_alone_reads_the_answers_of_who_compared_features_too(tmp_path):
    teacher = Counting()
    trained(tmp_path / "first", teacher=teacher, cache_folder=tmp_path / "answers")
    teacher.seen = 0
    shared, report = trained(tmp_path / "second", settings(**RESPONSE), teacher, cache_folder=tmp_path / "answers")
    assert teacher.seen == 0 and report.teacher == "the teacher was asked once about each of 3 images"
    alone, _ = trained(tmp_path / "third", settings(**RESPONSE), teacher)
    assert torch.equal(shared, alone), "the student is the same, whoever asked first"
    assert folders(tmp_path / "answers") == ["response+feature0+feature1"]


def test_who_needs_more_asks_anew(tmp_path):
    narrow = opened(tmp_path, wanted=(True, ()))
    wide = opened(tmp_path)
    assert folders(tmp_path) == ["response", "response+feature0+feature1"]
    again = opened(tmp_path, wanted=(True, ()))
    assert again.folder == narrow.folder != wide.folder
    assert np.array_equal(again.cut(1, 8, 4, 16)[0], wide.cut(1, 8, 4, 16)[0])


def test_a_larger_set_of_answers_than_the_limit_is_not_read(tmp_path):
    wide = opened(tmp_path, source=ToySource(side=400), config=settings(cache_gb=1.0))
    small = opened(tmp_path, source=ToySource(side=400), config=settings(cache_gb=5e-3), wanted=(True, ()))
    assert small.folder != wide.folder
    assert files(wide.folder), "it is held"


def test_answers_that_are_too_many_for_one_stay_for_the_others(tmp_path):
    source = ToySource(side=400)
    kept = opened(tmp_path, source=source, config=settings(cache_gb=1.0))
    before = files(kept.folder)
    (kept.folder / "0000001.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(UsageError, match=r"cache_gb is 0\.005"):
            opened(tmp_path, source=source, config=settings(cache_gb=5e-3))
        assert files(kept.folder) == {name: digest for name, digest in before.items() if not name.startswith("0000001")}
    opened(tmp_path, source=source, config=settings(cache_gb=1.0))
    assert files(kept.folder) == before


def test_other_code_means_other_answers(tmp_path, monkeypatch):
    first = opened(tmp_path).folder
    monkeypatch.setattr("train.teacher_cache.code_digest", lambda *_: "0" * 64)
    assert opened(tmp_path).folder != first
    monkeypatch.undo()
    assert opened(tmp_path).folder == first
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert opened(tmp_path).folder != first


def test_the_code_is_that_of_the_teacher_s_modules(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("train.teacher_cache.code_digest", lambda module, extra: asked.append((module, extra)) or "0")
    opened(tmp_path)
    assert asked[0][0] == "train.teacher_files" and "tests.train.toys" in asked[0][1]


def test_answers_are_held_while_somebody_reads_them(tmp_path):
    cache = opened(tmp_path)
    folder = cache.folder
    assert drop(folder) == 0 and files(folder)
    del cache
    gc.collect()
    assert drop(folder) > 0 and not folder.exists()


def test_answers_that_are_not_kept_are_not_held(tmp_path):
    with pytest.raises(UsageError, match="cache_gb"):
        opened(tmp_path, config=settings(cache_gb=1e-6))
    (folder,) = [p for p in tmp_path.iterdir() if p.is_dir()]
    drop(folder)
    assert not folder.exists()


def test_all_answers_together_stay_within_the_limit(tmp_path):
    source = ToySource(side=400)  # 3 images of 400 x 400, 6 bytes of each pixel: 2.9 MB
    first = opened(tmp_path, net(2), source, settings(cache_gb=6.5e-3), wanted=(True, ())).folder
    second = opened(tmp_path, net(3), source, settings(cache_gb=6.5e-3), wanted=(True, ())).folder
    os.utime(f"{first}.use", (1, 1))
    gc.collect()
    assert first.exists() and second.exists()
    third = opened(tmp_path, net(4), source, settings(cache_gb=6.5e-3), wanted=(True, ())).folder
    assert (first.exists(), second.exists(), third.exists()) == (False, True, True)


def test_a_filling_that_goes_on_makes_room_too(tmp_path):
    source, config = ToySource(side=400), settings(cache_gb=4e-3)  # 2.9 MB each
    first = opened(tmp_path, net(2), source, config, wanted=(True, ())).folder
    second = opened(tmp_path, net(3), source, settings(), wanted=(True, ())).folder
    file_of(second, 2).unlink()
    gc.collect()
    assert first.exists()
    opened(tmp_path, net(3), source, config, wanted=(True, ()))
    assert (first.exists(), len(files(second))) == (False, 3)
