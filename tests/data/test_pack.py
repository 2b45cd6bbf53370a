import json

import numpy as np
import pytest

from data.images import write_image
from data.pack import Cut, pack
from data.readers.folder import READER as FOLDER
from data.readers.lmdb import BLUR, READER, SHARP
from data.readers.samples import SamplesConfig, SamplesSource
from pipeline.contract import Pair
from pipeline.errors import UsageError
from tests.data.helpers import texture, write_pairs

lmdb = pytest.importorskip("lmdb")


class Given:
    """Pairs as they are given."""

    def __init__(self, *pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        return self.pairs[index]

    def digest(self):
        return "0" * 64

    def scenes(self):
        return {}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def read(path, **options):
    return READER.open(READER.config(path=path, **options), path.parent, 1)


def left_behind(folder):
    return sorted(p.name for p in folder.iterdir())


def test_every_pair_comes_back_with_the_same_bytes(tmp_path):
    source = SamplesSource(SamplesConfig(split="train", count=7, size=96), 1)
    packed = pack(source, tmp_path / "packed")
    opened = read(tmp_path / "packed")
    assert packed.pairs == len(opened) == 7
    assert packed.bytes == sum((tmp_path / "packed" / name / "data.mdb").stat().st_size for name in (BLUR, SHARP))
    for before, after in zip(source, opened, strict=True):
        assert (before.name, before.scene) == (after.name, after.scene)
        assert np.array_equal(before.lq, after.lq)
        assert np.array_equal(before.gt, after.gt)


def test_scenes_of_a_folder_keep_their_names(tmp_path):
    write_pairs(tmp_path / "pairs", ["a", "b"])
    folder = FOLDER.open(FOLDER.config(path="pairs"), tmp_path, 1)
    pack(folder, tmp_path / "packed")
    assert list(read(tmp_path / "packed").scenes()) == list(folder.scenes())


def test_layout_is_that_of_nafnet(tmp_path):
    pack(Given(Pair(noise(40, 48), noise(40, 48, 1), "one", "park")), tmp_path / "packed", compression=3)
    assert left_behind(tmp_path / "packed") == [BLUR, "scenes.json", SHARP]
    for name, image in ((BLUR, noise(40, 48)), (SHARP, noise(40, 48, 1))):
        assert (tmp_path / "packed" / name / "meta_info.txt").read_text() == "one.png (40,48,3) 3\n"
        with lmdb.open(str(tmp_path / "packed" / name), readonly=True, lock=False) as environment, environment.begin() as transaction:
            value = transaction.get(b"one")
        write_image(tmp_path / "again.png", image)
        assert value.startswith(b"\x89PNG")
    assert json.loads((tmp_path / "packed" / "scenes.json").read_text()) == {"one": "park"}


def test_crops_are_those_of_nafnets_preparation():
    """A 720p frame gives eight: 512 pixels every 256, and the last row aligned to the border."""
    windows = Cut(512, 256).windows(720, 1280)
    assert [(rows.start, columns.start) for rows, columns in windows] == [(top, left) for top in (0, 208) for left in (0, 256, 512, 768)]
    assert all(s.stop - s.start == 512 for window in windows for s in window)


@pytest.mark.parametrize(("length", "starts"), [(512, [0]), (513, [0, 1]), (768, [0, 256]), (800, [0, 256, 288]), (300, [0])])
def test_the_last_crop_is_aligned_to_the_border(length, starts):
    assert [columns.start for _, columns in Cut(512, 256).windows(512, length)] == starts


def test_crops_cover_the_image_and_an_image_that_is_smaller_stays_whole(tmp_path):
    large, small = noise(100, 140), noise(40, 200, 1)
    pack(Given(Pair(large, large // 2, "large", "a"), Pair(small, small // 2, "small", "b")), tmp_path / "packed", Cut(64, 32))
    opened = list(read(tmp_path / "packed"))
    assert [p.name for p in opened] == [f"large_s{i:03d}" for i in range(1, 13)] + [f"small_s{i:03d}" for i in range(1, 7)]
    assert {p.lq.shape for p in opened} == {(64, 64, 3), (40, 64, 3)}
    assert {p.scene for p in opened[:12]} == {"a"}
    assert np.array_equal(opened[0].lq, large[:64, :64])
    assert np.array_equal(opened[11].gt, large[36:, 76:] // 2)
    assert np.array_equal(opened[17].lq, small[:, 136:])


def test_a_database_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("data.pack._BATCH_BYTES", 100_000)
    pairs = [Pair(noise(128, 128, i), noise(128, 128, i + 100), f"p{i}", "s") for i in range(24)]  # 1.2 MB a database, which begins at 0.4
    assert pack(Given(*pairs), tmp_path / "packed").pairs == 24
    assert all(np.array_equal(a.lq, b.lq) for a, b in zip(pairs, read(tmp_path / "packed"), strict=True))


def test_compression_changes_the_size_alone(tmp_path):
    source = SamplesSource(SamplesConfig(split="train", count=3, size=256), 1)
    fast, slow = (pack(source, tmp_path / str(level), compression=level) for level in (0, 9))
    assert slow.bytes < 0.8 * fast.bytes
    assert all(np.array_equal(a.gt, b.gt) for a, b in zip(read(tmp_path / "0"), read(tmp_path / "9"), strict=True))


def test_progress_counts_pairs(tmp_path):
    ticks = []
    pack(
        Given(*(Pair(noise(40, 40), noise(40, 40, 1), f"p{i}", "s") for i in range(5))),
        tmp_path / "packed",
        advance=lambda: ticks.append(1),
    )
    assert len(ticks) == 5


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "packed").mkdir()
    with pytest.raises(UsageError) as caught:
        pack(Given(Pair(noise(40, 40), noise(40, 40), "a", "s")), tmp_path / "packed")
    assert str(caught.value) == f"--out {tmp_path / 'packed'}: exists already\nhint: name a new folder, or remove this one first"
    assert left_behind(tmp_path / "packed") == []


def test_names_that_fall_together(tmp_path):
    with pytest.raises(UsageError) as caught:
        pack(Given(*(Pair(noise(40, 40), noise(40, 40), name, "s") for name in ("a.b", "a_b"))), tmp_path / "packed")
    assert str(caught.value) == "pair 'a_b': two pairs have this name\nhint: rename one; '.' counts as '_' there"
    assert left_behind(tmp_path) == []


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UsageError, match="its name has over 511 bytes"):
        pack(Given(Pair(noise(40, 40), noise(40, 40), "x" * 512, "s")), tmp_path / "packed")


def test_an_unreadable_image_leaves_nothing_behind(tmp_path):
    write_pairs(tmp_path / "pairs", ["a", "b", "c"], size=(160, 160))
    path = tmp_path / "pairs" / "sharp" / "b.png"
    folder = FOLDER.open(FOLDER.config(path="pairs", scene="folder"), tmp_path, 1)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="not a readable image"):
        pack(folder, tmp_path / "packed")
    assert left_behind(tmp_path) == ["pairs"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        pack(Given(Pair(noise(40, 40), noise(40, 40), "a", "s")), tmp_path / "file" / "packed")


def test_texture_survives_as_well(tmp_path):
    """A smooth picture too: PNG filters differ from those of noise."""
    pack(Given(Pair(texture(), texture(seed=1), "a", "s")), tmp_path / "packed")
    assert np.array_equal(read(tmp_path / "packed")[0].lq, texture())
