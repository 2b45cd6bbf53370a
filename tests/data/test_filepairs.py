import os

import numpy as np
import pytest

from data.digests import file_digest
from data.filepairs import Entry, FilePairSource, check_entries, cut_middle, spread
from data.images import write_image
from data.readers.folder import READER
from pipeline.contract import Problem
from pipeline.errors import UsageError
from tests.data.helpers import texture, write_pairs


def entry(base, key, scene=""):
    return Entry(key, base / "blur" / f"{key}.png", base / "sharp" / f"{key}.png", scene)


def inspect(base, **options):
    return READER.inspect(READER.config(path="pairs", **options), base, 1)


def broken(base):
    """Two sound pairs among one of each thing that can be wrong; the problems expected, in order."""
    root = base / "pairs"
    blur, sharp = root / "blur", root / "sharp"
    write_pairs(root, ["a", "cut", "empty", "noise", "size", "small", "x/y", "z"], size=(40, 48))
    write_image(blur / "lonely.png", texture(40, 48))
    write_image(sharp / "alone.png", texture(40, 48))
    write_image(blur / "a.jpg", texture(40, 48))
    (sharp / "cut.png").write_bytes((sharp / "cut.png").read_bytes()[:500])
    (blur / "empty.png").write_bytes(b"")
    (sharp / "empty.png").write_bytes(b"")
    (blur / "noise.png").write_bytes(b"no picture at all")
    write_image(sharp / "size.png", texture(40, 56))
    for part in (blur, sharp):
        write_image(part / "small.png", texture(8, 48))
        write_image(part / "x__y.png", texture(40, 48, seed=3))
    return [
        Problem(str(blur / "a.png"), "has the same name as a.jpg"),
        Problem(str(sharp / "alone.png"), "has no partner of the same name"),
        Problem(str(blur / "lonely.png"), "has no partner of the same name"),
        Problem(str(sharp / "cut.png"), "not a readable image"),
        Problem(str(blur / "empty.png"), "the file is empty"),
        Problem(str(sharp / "empty.png"), "the file is empty"),
        Problem(str(blur / "noise.png"), "not a readable image"),
        Problem(str(blur / "size.png"), f"is 48x40 but {sharp / 'size.png'} is 56x40"),
        Problem(str(blur / "small.png"), "is 48x8 pixels; the shorter side must have at least 16"),
        Problem(str(blur / "x__y.png"), f"makes a second pair of the name 'x__y', after {blur / 'x' / 'y.png'}"),
    ]


def test_inspect_names_everything_and_keeps_what_is_sound(tmp_path):
    expected = broken(tmp_path)
    source, problems = inspect(tmp_path)
    assert problems == expected
    assert [p.name for p in source] == ["a", "x__y", "z"]


def test_open_raises_the_first(tmp_path):
    broken(tmp_path)
    with pytest.raises(UsageError, match=r"a\.png: has the same name as a\.jpg"):
        READER.open(READER.config(path="pairs"), tmp_path, 1)


def test_nothing_sound(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"], size=(8, 8))
    source, problems = inspect(tmp_path)
    assert source is None
    assert [p.what for p in problems] == ["is 8x8 pixels; the shorter side must have at least 16"]


def test_inspect_looks_at_what_limit_leaves(tmp_path):
    write_pairs(tmp_path / "pairs", ["a", "b"])
    (tmp_path / "pairs" / "blur" / "b.png").write_bytes(b"")
    source, problems = inspect(tmp_path, limit=1)
    assert (len(source), problems) == (1, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path):
    write_pairs(tmp_path, ["a"])
    entry(tmp_path, "a").blur.chmod(0)
    _, findings = check_entries([entry(tmp_path, "a")])
    assert [f.error.what for f in findings] == ["cannot be opened (Permission denied)"]


def test_missing_file_of_a_list(tmp_path):
    write_pairs(tmp_path, ["a"])
    sound, findings = check_entries([entry(tmp_path, "a"), entry(tmp_path, "b")])
    assert sound == [entry(tmp_path, "a")]
    assert [(f.error.where, f.error.what) for f in findings] == [
        (str(tmp_path / part / "b.png"), "file does not exist") for part in ("blur", "sharp")
    ]


def test_scenes_with_a_name_and_of_their_own(tmp_path):
    write_pairs(tmp_path, ["a", "b", "c"])
    source = FilePairSource([entry(tmp_path, "a", "street"), entry(tmp_path, "b"), entry(tmp_path, "c", "street")])
    own = file_digest(tmp_path / "sharp" / "b.png")
    assert [p.scene for p in source] == ["street", f"b@{own[:12]}", "street"]
    assert source.scenes()[f"b@{own[:12]}"] == own
    assert len(source.scenes()) == 2


def test_digest_follows_scenes_and_crop(tmp_path):
    write_pairs(tmp_path, ["a"])
    digests = {FilePairSource([entry(tmp_path, "a", scene)], crop).digest() for scene in ("", "s") for crop in (None, 16)}
    assert len(digests) == 4


def test_spread():
    assert spread("abcdefghij", 4) == ["a", "c", "f", "h"]
    assert spread("ab", None) == spread("ab", 9) == ["a", "b"]
    assert spread("", 3) == []


def test_middle():
    image = texture(40, 64)
    assert np.array_equal(cut_middle(image, 48), image[:, 8:56])
    assert np.array_equal(cut_middle(image, None), image)
