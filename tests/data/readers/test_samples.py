import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import data.readers.samples as samples
from data.digests import file_digest
from data.readers.samples import PHOTOS, READER, SamplesConfig, SamplesSource
from pipeline.contract import PairSource
from pipeline.errors import ToolchainMissing
from tests.data.helpers import psnr

SPLITS = ("train", "calibrate", "test")


def source(seed=1, **options):
    return READER.open(READER.config(**options), Path(), seed)


def same(a, b):
    return np.array_equal(a.lq, b.lq) and np.array_equal(a.gt, b.gt) and (a.name, a.scene) == (b.name, b.scene)


@pytest.mark.parametrize(("split", "count"), [("train", 96), ("calibrate", 16), ("test", 24)])
def test_default_counts(split, count):
    opened = source(split=split)
    assert isinstance(opened, PairSource)
    assert len(opened) == count


@pytest.mark.parametrize("seed", [0, 1, 2026])
def test_blurred_test_input_lies_between_24_and_28_db(seed):
    pairs = source(seed, split="test")
    assert 24 < np.mean([psnr(p.lq, p.gt) for p in pairs]) < 28


def test_scenes_are_disjoint_and_photographs_are_in_one_split():
    named = [photo for split in SPLITS for photo in PHOTOS[split]]
    assert len({p.file for p in named}) == len(named)
    names = [set(source(split=s).scenes()) for s in SPLITS]
    digests = [set(source(split=s).scenes().values()) for s in SPLITS]
    for sets in (names, digests):
        assert sum(map(len, sets)) == len(set.union(*sets))
    assert len(PHOTOS["test"]) >= 2


def test_scene_digest_is_that_of_the_photograph():
    scenes = source(split="test").scenes()
    assert set(scenes) == {p.scene for p in source(split="test")}
    for photo in PHOTOS["test"]:
        if sum(p.scene == photo.scene for p in PHOTOS["test"]) == 1:
            assert scenes[photo.scene] == file_digest(samples._path(photo.file))


@pytest.mark.parametrize("split", ["calibrate", "test"])
def test_images_to_judge_are_256_pixels_and_textured(split):
    for pair in source(split=split, count=8):
        assert pair.lq.shape == pair.gt.shape == (256, 256, 3)
        assert pair.lq.dtype == pair.gt.dtype == np.uint8
        assert np.abs(np.diff(pair.gt.astype(int), axis=1)).mean() > 2


def test_training_images_are_large_parts_of_the_photographs():
    for pair in source(split="train", count=12):
        assert 190 < min(pair.lq.shape[:2]) <= max(pair.lq.shape[:2]) <= 512


def test_same_seed_and_index_same_bytes_in_any_order():
    first, again = source(split="train", size=96), source(split="train", size=96)
    backwards = {i: again[i] for i in reversed(range(6))}
    assert all(same(first[i], backwards[i]) for i in range(6))


def test_more_pairs_keep_the_first_ones():
    assert same(source(split="test", count=2, size=96)[1], source(split="test", count=9, size=96)[1])


def test_seeds_and_splits_draw_differently():
    def window(**options):
        return source(split="test", size=96, **options)[0].gt

    assert not np.array_equal(window(), window(seed=2))
    assert np.array_equal(window(seed=2), READER.open(SamplesConfig(split="test", size=96, seed=2), Path(), 99)[0].gt)


def test_names_are_unique_file_names():
    names = [p.name for p in source(split="test", size=64)]
    assert len(set(names)) == 24
    assert names[0] == f"0000_{Path(PHOTOS['test'][0].file).stem}"


def test_outside_the_range():
    opened = source(split="test", count=3)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"pair {index} of 3"):
            opened[index]


def test_digest_follows_everything_that_decides_the_bytes(monkeypatch):
    base = source(split="test").digest()
    assert source(split="test").digest() == base
    assert len(base) == 64
    assert source(split="test", count=24, size=256).digest() == base
    others = [{"split": "train"}, {"count": 8}, {"size": 128}, {"seed": 5}, {"blur": {"length": (1, 2)}}, {"blur": {"gamma": 2.2}}]
    digests = {source(**({"split": "test"} | options)).digest() for options in others} | {source(2, split="test").digest(), base}
    for name in ("_VERSION", "SYNTHESIS_VERSION"):
        with monkeypatch.context() as patch:
            patch.setattr(samples, name, 99)
            digests.add(source(split="test").digest())
    assert len(digests) == len(others) + 4


def test_missing_photograph(monkeypatch):
    monkeypatch.setitem(samples.PHOTOS, "test", (samples.Photo("gone.png", "gone"),))
    with pytest.raises(ToolchainMissing) as caught:
        source(split="test")
    what = "data source 'samples': scikit-image's photograph gone.png is not installed"
    assert str(caught.value) == f"{what}\nhint: pip install scikit-image"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "Input should be 'train', 'calibrate' or 'test'"),
        ({"split": "test", "blurr": {}}, "Extra inputs"),
        ({}, "Field required"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        SamplesConfig(**options)


def test_opening_synthesizes_nothing_and_imports_nothing_heavy():
    code = """
import sys
from pathlib import Path
import data.synthesis
data.synthesis.synthesize = None
from data.readers.samples import READER
opened = READER.open(READER.config(split="train"), Path(), 1)
assert len(opened) == 96
opened.scenes()
loaded = {"torch", "skimage", "cv2"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_every_option_is_described():
    assert all(field.description for field in SamplesConfig.model_fields.values())


def test_source_keeps_nothing_between_calls():
    opened = SamplesSource(SamplesConfig(split="test", size=64), 1)
    before = dict(opened.__dict__)
    opened[0]
    assert opened.__dict__ == before
