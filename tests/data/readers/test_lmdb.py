import multiprocessing
import pickle
import sys
from importlib.machinery import PathFinder

import numpy as np
import pytest

from data.images import write_image
from data.pack import Cut, pack
from data.readers.folder import READER as FOLDER
from data.readers.lmdb import BLUR, READER, SHARP, LmdbConfig
from pipeline.contract import PairSource, Problem
from pipeline.errors import ToolchainMissing, UsageError
from tests.data.helpers import texture, write_pairs

lmdb = pytest.importorskip("lmdb")
AGAIN = "hint: pack the pairs again: 'python -m pipeline dataset pack --help'"


def source(base, path="packed", **options):
    return READER.open(READER.config(path=path, **options), base, 1)


def error(base, **options):
    with pytest.raises(UsageError) as caught:
        source(base, **options)
    return str(caught.value)


def inspect(base, **options):
    found, problems = READER.inspect(READER.config(path="packed", **options), base, 1)
    return found, [(p.where, p.what) for p in problems]


def write_database(folder, images, meta=None):
    """A database as NAFNet's preparation leaves it: key -> (bytes, (height, width))."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, (value, _) in images.items():
            transaction.put(key.encode(), value)
    lines = [f"{key}.png ({h},{w},3) 1\n" for key, (_, (h, w)) in images.items()]
    (folder / "meta_info.txt").write_text("".join(lines) if meta is None else meta)


def png(seed, height=40, width=48):
    import cv2

    return cv2.imencode(".png", texture(height, width, seed)[..., ::-1])[1].tobytes(), (height, width)


KEYS = ["GOPR0372_07_00-000047_s001", "GOPR0372_07_00-000047_s002", "GOPR0374_11_00-000001_s001"]


@pytest.fixture
def nafnet(tmp_path):
    """Two databases without scenes.json."""
    write_database(tmp_path / "packed" / BLUR, {key: png(i) for i, key in enumerate(KEYS)})
    write_database(tmp_path / "packed" / SHARP, {key: png(i + 100) for i, key in enumerate(KEYS)})
    return tmp_path


def test_databases_of_nafnets_preparation(nafnet):
    opened = source(nafnet)
    assert isinstance(opened, PairSource)
    assert [p.name for p in opened] == KEYS
    assert [p.scene for p in opened] == ["GOPR0372_07_00", "GOPR0372_07_00", "GOPR0374_11_00"]
    assert np.array_equal(opened[1].lq, texture(40, 48, 1))
    assert np.array_equal(opened[1].gt, texture(40, 48, 101))
    assert set(opened.scenes()) == {"GOPR0372_07_00", "GOPR0374_11_00"}


def test_jpeg_values_and_other_names(tmp_path):
    import cv2

    jpeg = cv2.imencode(".jpg", texture()[..., ::-1])[1].tobytes()
    write_database(tmp_path / "packed" / "input.lmdb", {"a": (jpeg, (96, 128))}, meta="a.jpg (96,128,3) 1\n")
    write_database(tmp_path / "packed" / "target.lmdb", {"a": png(0, 96, 128)})
    (pair,) = source(tmp_path, blur="input.lmdb", sharp="target.lmdb")
    assert pair.lq.shape == (96, 128, 3)
    assert 0 < np.abs(pair.lq.astype(int) - pair.gt).mean() < 10


def test_every_image_may_be_a_scene_of_its_own(nafnet):
    scenes = source(nafnet, scene="image").scenes()
    assert len(scenes) == 3
    assert all(name == f"{key}@{digest[:12]}" for key, (name, digest) in zip(KEYS, scenes.items(), strict=True))


def test_limit_is_spread(nafnet):
    assert [p.name for p in source(nafnet, limit=2)] == KEYS[:2]
    assert len(source(nafnet, limit=99)) == 3


def test_outside_the_range(nafnet):
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"pair {index} of 3"):
            source(nafnet)[index]


@pytest.fixture
def packed(tmp_path):
    for scene in ("park", "street"):
        write_pairs(tmp_path / "pairs" / scene, ["1", "2"])
    folder = FOLDER.open(FOLDER.config(path="pairs", scene="folder"), tmp_path, 1)
    pack(folder, tmp_path / "packed")
    return tmp_path


def test_scenes_as_they_were_packed(packed):
    assert [p.scene for p in source(packed)] == ["park", "park", "street", "street"]
    assert [p.scene for p in source(packed, scene="prefix")] == ["park_", "park_", "street_", "street_"]
    (packed / "packed" / "scenes.json").unlink()
    assert [p.scene for p in source(packed)] == ["park_", "park_", "street_", "street_"]


def test_digest_follows_values_scenes_and_options_and_not_the_place(packed):
    base = source(packed).digest()
    (packed / "packed").rename(packed / "moved")
    assert source(packed, "moved").digest() == base
    assert len(base) == 64
    digests = {base, source(packed, "moved", limit=2).digest(), source(packed, "moved", scene="prefix").digest()}
    write_image(packed / "pairs" / "park" / "blur" / "1.png", texture(40, 48, seed=77))
    pack(FOLDER.open(FOLDER.config(path="pairs", scene="folder"), packed, 1), packed / "packed")
    digests.add(source(packed).digest())
    assert len(digests) == 4


def test_two_sources_and_copies_share_a_database(packed):
    one, two = source(packed), source(packed, limit=2)
    copy = pickle.loads(pickle.dumps(one))
    assert np.array_equal(one[0].lq, two[0].lq)
    assert np.array_equal(one[0].lq, copy[0].lq)


def test_a_database_written_anew_is_opened_anew(packed):
    import shutil

    assert len(source(packed)) == 4
    before = source(packed)[0].lq
    shutil.rmtree(packed / "packed")
    write_image(packed / "pairs" / "park" / "blur" / "1.png", texture(40, 48, seed=77))
    pack(FOLDER.open(FOLDER.config(path="pairs"), packed, 1), packed / "packed")
    assert not np.array_equal(source(packed)[0].lq, before)
    assert np.array_equal(source(packed)[0].lq, texture(40, 48, seed=77))


def total(opened, queue):
    queue.put([int(pair.lq.sum()) for pair in opened])


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("used_before", [False, True])
def test_other_processes_read_it(packed, start, used_before):
    opened = source(packed)
    if used_before:
        opened[0]
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    process = context.Process(target=total, args=(opened, queue))
    process.start()
    assert queue.get(timeout=60) == [int(pair.lq.sum()) for pair in opened]
    process.join(60)
    assert process.exitcode == 0


def test_works_in_a_data_loader_with_workers(packed):
    torch = pytest.importorskip("torch")
    from data.crops import CropDataset, fixed_batch

    dataset = CropDataset(source(packed), 32, 1, 8)
    expected = fixed_batch(dataset, 8)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, num_workers=2, timeout=60)
    lq, gt = (torch.cat(parts).numpy() for parts in zip(*loader, strict=True))
    assert np.array_equal(lq, expected[0])
    assert np.array_equal(gt, expected[1])


def test_nothing_is_wrong(packed):
    found, problems = inspect(packed)
    assert (len(found), problems) == (4, [])


def test_missing_database(tmp_path):
    hint = "hint: name the databases with 'blur:' and 'sharp:'; relative paths start at the pipeline file's folder"
    assert error(tmp_path) == f"{tmp_path / 'packed' / BLUR}: database does not exist\n{hint}"
    assert inspect(tmp_path) == (None, [(str(tmp_path / "packed" / BLUR), "database does not exist")])


@pytest.mark.parametrize("name", ["meta_info.txt", "data.mdb"])
def test_missing_file(nafnet, name):
    path = nafnet / "packed" / SHARP / name
    path.unlink()
    assert error(nafnet) == f"{path}: file does not exist\n{AGAIN}"


def test_malformed_meta(nafnet):
    path = nafnet / "packed" / BLUR / "meta_info.txt"
    path.write_text("a.png (40,48,3) 1\nwhat?\n")
    assert error(nafnet) == f"{path}: line 2 is not 'name.png (height,width,channels) compression': 'what?'\n{AGAIN}"
    path.write_text("")
    assert error(nafnet) == f"{path}: names no image\n{AGAIN}"


def test_keys_without_partner_and_unequal_sizes(nafnet):
    meta = nafnet / "packed" / SHARP / "meta_info.txt"
    text = meta.read_text()
    meta.write_text(text.replace("00-000001_s001", "other"))
    alone = f"2 images without a partner: {BLUR}/{KEYS[2]}, {SHARP}/GOPR0374_11_other"
    assert error(nafnet) == f"{nafnet / 'packed'}: {alone}\nhint: every key of one database must be in the other"
    meta.write_text(text.replace("00-000001_s001", "other").replace("s002.png (40,48", "s002.png (48,40"))
    size = f"is 48x40 but that of {nafnet / 'packed' / SHARP} is 40x48"
    found, problems = inspect(nafnet)
    assert problems == [(str(nafnet / "packed"), alone), (f"{nafnet / 'packed' / BLUR}: {KEYS[1]}", size)]
    assert [p.name for p in found] == KEYS[:1]


def test_key_that_the_database_does_not_hold(nafnet):
    meta = [nafnet / "packed" / name / "meta_info.txt" for name in (BLUR, SHARP)]
    for path in meta:
        path.write_text(path.read_text() + "more.png (40,48,3) 1\n")
    with pytest.raises(UsageError) as caught:
        source(nafnet)[3]
    assert str(caught.value) == f"{meta[0].parent}: more: is in meta_info.txt but not in the database\n{AGAIN}"
    found, problems = inspect(nafnet)
    assert problems == [(f"{path.parent}: more", "is in meta_info.txt but not in the database") for path in meta]
    assert len(found) == 3


def test_value_that_is_no_image(tmp_path):
    write_database(tmp_path / "packed" / BLUR, {"a": (b"\x89PNG", (40, 48))})
    write_database(tmp_path / "packed" / SHARP, {"a": png(0)})
    with pytest.raises(UsageError) as caught:
        source(tmp_path)[0]
    assert str(caught.value) == f"{tmp_path / 'packed' / BLUR}: a: not a readable image\n{AGAIN}"


def test_value_of_another_size_than_its_meta(tmp_path):
    write_database(tmp_path / "packed" / BLUR, {"a": png(0, 48, 40)}, meta="a.png (40,48,3) 1\n")
    write_database(tmp_path / "packed" / SHARP, {"a": png(0)})
    with pytest.raises(UsageError, match="is 40x48 but that of"):
        source(tmp_path)[0]


def test_damaged_database(nafnet):
    (nafnet / "packed" / BLUR / "data.mdb").write_bytes(b"\0" * 9000)
    with pytest.raises(UsageError, match="cannot be opened"):
        source(nafnet)[0]
    found, problems = inspect(nafnet)
    assert found is None
    assert "cannot be opened" in problems[0][1]


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}'])
def test_damaged_scenes(nafnet, content):
    path = nafnet / "packed" / "scenes.json"
    path.write_text(content)
    assert error(nafnet).startswith(f"{path}: ")
    assert len(source(nafnet, scene="prefix")) == 3


def test_scenes_are_asked_for_and_missing(nafnet):
    expected = f"{nafnet / 'packed' / 'scenes.json'}: file does not exist\nhint: say 'scene: prefix' or 'scene: image'"
    assert error(nafnet, scene="stored") == expected


def test_without_the_package(nafnet, monkeypatch):
    real = PathFinder.find_spec
    monkeypatch.setattr(PathFinder, "find_spec", lambda name, *rest: None if name == "lmdb" else real(name, *rest))
    monkeypatch.delitem(sys.modules, "lmdb")
    with pytest.raises(ToolchainMissing) as caught:
        source(nafnet)
    assert str(caught.value) == "data source 'lmdb': the package lmdb is not installed\nhint: pip install lmdb"
    with pytest.raises(ToolchainMissing):
        pack([], nafnet / "new", Cut())


def test_problems_are_problems(nafnet):
    (nafnet / "packed" / SHARP / "meta_info.txt").unlink()
    found, problems = READER.inspect(READER.config(path="packed"), nafnet, 1)
    assert found is None
    assert all(isinstance(p, Problem) for p in problems)


def test_every_option_is_described():
    assert all(field.description for field in LmdbConfig.model_fields.values())
