import numpy as np
import pytest
from pydantic import ValidationError

import data.readers.sharp as sharp
from data.digests import file_digest
from data.images import write_image
from data.readers.sharp import READER, SharpConfig, in_test
from pipeline.errors import UsageError
from tests.data.helpers import psnr, texture


def photos(base, names=("a", "b", "sub/c"), size=(120, 136)):
    for i, name in enumerate(names):
        write_image(base / "photos" / f"{name}.png", texture(*size, seed=i))


def source(base, seed=1, **options):
    return READER.open(READER.config(path="photos", **{"size": 64, **options}), base, seed)


def same(a, b):
    return np.array_equal(a.lq, b.lq) and np.array_equal(a.gt, b.gt) and (a.name, a.scene) == (b.name, b.scene)


def test_photographs_take_turns(tmp_path):
    photos(tmp_path)
    opened = source(tmp_path, count=4)
    assert [p.name for p in opened] == ["000000_a", "000001_b", "000002_sub__c", "000003_a"]
    assert opened[0].scene == opened[3].scene == f"a@{file_digest(tmp_path / 'photos' / 'a.png')[:12]}"
    assert not np.array_equal(opened[0].gt, opened[3].gt)
    assert opened[0].gt.shape == (64, 64, 3)


def test_the_sharp_image_is_part_of_the_photograph(tmp_path):
    photos(tmp_path, ["a"])
    pair = source(tmp_path, blur={"foreground": 0})[0]
    whole = texture(120, 136)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (64, 64, 3))[:, :, 0]
    assert any(np.array_equal(pair.gt, w) for row in windows for w in row)
    assert psnr(pair.lq, pair.gt) < 45


def test_numbers_of_pairs(tmp_path):
    photos(tmp_path)
    assert [len(source(tmp_path, **o)) for o in ({}, {"per_image": 4}, {"count": 5})] == [3, 12, 5]
    assert len(source(tmp_path, count=2).scenes()) == 2


def test_more_pairs_keep_the_first_ones(tmp_path):
    photos(tmp_path)
    assert same(source(tmp_path, count=2)[1], source(tmp_path, count=9)[1])


def test_seed(tmp_path):
    photos(tmp_path)
    assert not np.array_equal(source(tmp_path)[0].gt, source(tmp_path, seed=2)[0].gt)
    assert same(READER.open(READER.config(path="photos", size=64, seed=1), tmp_path, 9)[0], source(tmp_path)[0])


def test_shrinking_shows_more_of_the_photograph(tmp_path):
    photos(tmp_path, ["a"], (240, 272))
    assert source(tmp_path, size=512)[0].gt.shape == (224, 256, 3)
    assert source(tmp_path, size=512, shrinks=[2])[0].gt.shape == (104, 120, 3)


def test_split_is_by_name(tmp_path):
    names = [f"{place}/{i}" for i in range(40) for place in "xy"]
    photos(tmp_path, names)
    train, test = (source(tmp_path, split=s, test_share=0.3).scenes() for s in ("train", "test"))
    assert len(train) + len(test) == 80
    assert not set(train) & set(test)
    assert 12 <= len(test) <= 36
    in_x, in_y = ({s.split("@")[0][2:] for s in test if s.startswith(place)} for place in "xy")
    assert in_x == in_y


def test_split_is_pinned():
    """Photographs must not change sides with a new version."""
    assert [i for i in range(30) if in_test(f"photo_{i}", 0.1)] == [25, 26]


def test_share_grows_without_taking_away():
    tests = [{i for i in range(200) if in_test(str(i), share)} for share in (0.1, 0.2, 0.5)]
    assert tests[0] < tests[1] < tests[2]
    assert 80 < len(tests[2]) < 120


def test_empty_part(tmp_path):
    photos(tmp_path, ["a"])
    with pytest.raises(UsageError) as caught:
        source(tmp_path, split="test", test_share=0.001)
    assert str(caught.value) == (
        f"{tmp_path / 'photos'}: none of its images belongs to the part 'test'\n"
        "hint: change 'test_share', add photographs, or leave 'split' out"
    )


def test_problems(tmp_path):
    photos(tmp_path)
    (tmp_path / "photos" / "b.png").write_bytes(b"nothing")
    write_image(tmp_path / "photos" / "small.png", texture(64, 64))
    opened, problems = READER.inspect(READER.config(path="photos"), tmp_path, 1)
    assert [p.name for p in opened] == ["000000_a", "000001_sub__c"]
    assert [(p.where, p.what) for p in problems] == [
        (str(tmp_path / "photos" / "b.png"), "not a readable image"),
        (str(tmp_path / "photos" / "small.png"), "is 64x64 pixels; the shorter side must have at least 65"),
    ]
    with pytest.raises(UsageError, match=r"b\.png: not a readable image"):
        source(tmp_path)


def test_digest_follows_what_decides_the_bytes(tmp_path, monkeypatch):
    photos(tmp_path)
    others = [{}, {"count": 2}, {"size": 50}, {"seed": 9}, {"shrinks": [1, 1.5]}, {"blur": {"gamma": 2.2}}]
    digests = {source(tmp_path, **o).digest() for o in others}
    assert source(tmp_path, per_image=1).digest() in digests
    with monkeypatch.context() as patch:
        patch.setattr(sharp, "SYNTHESIS_VERSION", 99)
        digests.add(source(tmp_path).digest())
    write_image(tmp_path / "photos" / "a.png", texture(120, 136, seed=50))
    digests.add(source(tmp_path).digest())
    assert len(digests) == len(others) + 2


def test_bad_options():
    with pytest.raises(ValidationError, match="count and per_image both say how many pairs; keep one of them"):
        SharpConfig(path="x", count=3, per_image=2)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        SharpConfig(path="x", shrinks=[0.5])
