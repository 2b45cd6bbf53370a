import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from data.digests import file_digest, value_digest
from data.images import read_image, write_image
from data.readers.folder import READER, FolderConfig
from pipeline.contract import PairSource
from pipeline.errors import UsageError
from tests.data.helpers import texture, write_pairs

HINT = "hint: put blurred images in blur/ and sharp ones, with equal names, in sharp/"


def source(base, path="pairs", **options):
    return READER.open(READER.config(path=path, **options), base, 1)


def error(base, path="pairs", **options):
    with pytest.raises(UsageError) as caught:
        source(base, path, **options)
    return str(caught.value)


def test_round_trip(tmp_path):
    write_pairs(tmp_path / "pairs", ["b", "a", "c"])
    opened = source(tmp_path)
    assert isinstance(opened, PairSource)
    assert [p.name for p in opened] == ["a", "b", "c"]
    for pair in opened:
        assert np.array_equal(pair.lq, read_image(tmp_path / "pairs" / "blur" / f"{pair.name}.png"))
        assert np.array_equal(pair.gt, read_image(tmp_path / "pairs" / "sharp" / f"{pair.name}.png"))
        assert not np.array_equal(pair.lq, pair.gt)


def test_absolute_path_and_different_suffixes(tmp_path):
    write_image(tmp_path / "blur" / "a.jpg", texture())
    write_image(tmp_path / "sharp" / "a.png", texture())
    assert [p.name for p in source(Path("/elsewhere"), tmp_path)] == ["a"]


def test_subfolders_inside(tmp_path):
    write_pairs(tmp_path / "pairs", ["street/1", "street/2", "park/1"])
    opened = source(tmp_path, scene="folder")
    assert [(p.name, p.scene) for p in opened] == [("park__1", "park"), ("street__1", "street"), ("street__2", "street")]
    assert set(opened.scenes()) == {"park", "street"}


def test_subfolders_outside_as_gopro_has_them(tmp_path):
    for scene in ("GOPR1", "GOPR2"):
        write_pairs(tmp_path / "pairs" / scene, ["000001", "000002"])
    (tmp_path / "pairs" / "notes").mkdir()
    opened = source(tmp_path, scene="folder")
    assert [p.name for p in opened] == ["GOPR1__000001", "GOPR1__000002", "GOPR2__000001", "GOPR2__000002"]
    assert list(opened.scenes()) == ["GOPR1", "GOPR2"]


def test_scene_from_the_name(tmp_path):
    write_pairs(tmp_path / "pairs", ["GOPR0372_07_00-000047", "GOPR0372_07_00-000048", "street_1", "alone"])
    assert set(source(tmp_path, scene="prefix").scenes()) == {"GOPR0372_07_00", "street", "alone"}


def test_scene_of_a_flat_folder_is_the_folder(tmp_path):
    write_pairs(tmp_path / "mine" / "pairs", ["a", "b"])
    assert set(source(tmp_path, "mine/pairs", scene="folder").scenes()) == {"mine/pairs"}


def test_every_image_is_a_scene_of_its_own(tmp_path):
    """Equal names in two folders are no overlap; equal photographs under two names are."""
    for i, folder in enumerate(("one", "two")):
        write_image(tmp_path / folder / "blur" / "1.png", texture(seed=i))
        write_image(tmp_path / folder / "sharp" / "1.png", texture(seed=i + 10))
        write_image(tmp_path / folder / "blur" / f"same{i}.png", texture(seed=i + 20))
        write_image(tmp_path / folder / "sharp" / f"same{i}.png", texture(seed=30))
    one, two = source(tmp_path, "one"), source(tmp_path, "two")
    assert not set(one.scenes()) & set(two.scenes())
    assert len(set(one.scenes().values()) & set(two.scenes().values())) == 1
    assert [p.scene for p in one] == list(one.scenes())


def test_limit_is_spread_over_the_names(tmp_path):
    write_pairs(tmp_path / "pairs", [f"{i:02d}" for i in range(10)])
    assert [p.name for p in source(tmp_path, limit=4)] == ["00", "02", "05", "07"]
    assert len(source(tmp_path, limit=99)) == 10


def test_crop_is_the_middle(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"], size=(40, 64))
    whole, cut = source(tmp_path)[0], source(tmp_path, crop=48)[0]
    assert cut.lq.shape == cut.gt.shape == (40, 48, 3)
    assert np.array_equal(cut.gt, whole.gt[:, 8:56])


def test_digest_follows_names_bytes_and_options(tmp_path):
    write_pairs(tmp_path / "pairs", ["a", "b"])
    base = source(tmp_path).digest()
    assert source(tmp_path).digest() == base
    assert len(base) == 64
    digests = {base, source(tmp_path, limit=1).digest(), source(tmp_path, crop=16).digest(), source(tmp_path, scene="prefix").digest()}
    for part in ("blur", "sharp"):
        (tmp_path / "pairs" / part / "b.png").rename(tmp_path / "pairs" / part / "c.png")
    digests.add(source(tmp_path).digest())
    write_image(tmp_path / "pairs" / "blur" / "a.png", texture(40, 48, seed=77))
    digests.add(source(tmp_path).digest())
    assert len(digests) == 6


def test_digest_does_not_depend_on_the_place(tmp_path):
    for place in ("one", "two"):
        write_pairs(tmp_path / place, ["a", "b"])
    assert source(tmp_path, "one").digest() == source(tmp_path, "two").digest()


def test_copy_in_another_process(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    assert np.array_equal(pickle.loads(pickle.dumps(source(tmp_path)))[0].lq, source(tmp_path)[0].lq)


def test_outside_the_range(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    for index in (-1, 1):
        with pytest.raises(IndexError, match=f"pair {index} of 1"):
            source(tmp_path)[index]


def test_missing_folder(tmp_path):
    hint = "hint: check the path; relative paths start at the pipeline file's folder"
    assert error(tmp_path, "no") == f"{tmp_path / 'no'}: folder does not exist\n{hint}"


def test_folder_without_blur_and_sharp(tmp_path):
    (tmp_path / "pairs").mkdir()
    assert error(tmp_path) == f"{tmp_path / 'pairs'}: holds no folders blur/ and sharp/\n{HINT}"


@pytest.mark.parametrize(("there", "missing"), [("blur", "sharp"), ("sharp", "blur")])
def test_only_one_of_the_folders(tmp_path, there, missing):
    write_image(tmp_path / "pairs" / there / "a.png", texture())
    assert error(tmp_path) == f"{tmp_path / 'pairs' / missing}: folder does not exist\n{HINT}"


def test_empty_folder(tmp_path):
    for part in ("blur", "sharp"):
        (tmp_path / "pairs" / part).mkdir(parents=True)
    expected = f"{tmp_path / 'pairs' / 'blur'}: holds no image\nhint: put images there (.png .jpg .jpeg .bmp .tif .tiff .webp)"
    assert error(tmp_path) == expected


def test_one_unpaired_image(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    write_image(tmp_path / "pairs" / "sharp" / "b.png", texture())
    what = f"{tmp_path / 'pairs'}: 1 image without a partner: sharp/b.png"
    assert error(tmp_path) == f"{what}\nhint: every image in blur/ needs one of the same name in sharp/, and the other way round"


def test_many_unpaired_images(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    for name in "bcdef":
        write_image(tmp_path / "pairs" / "blur" / f"{name}.png", texture())
    what = f"{tmp_path / 'pairs'}: 5 images without a partner: blur/b.png, blur/c.png, blur/d.png and 2 more"
    assert error(tmp_path).startswith(what)


def test_two_images_of_one_name(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    write_image(tmp_path / "pairs" / "blur" / "a.jpg", texture())
    what = f"{tmp_path / 'pairs' / 'blur' / 'a.png'}: has the same name as a.jpg"
    assert error(tmp_path) == f"{what}\nhint: keep one image of each name; the suffix does not count"


def test_sizes_differ(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    write_image(tmp_path / "pairs" / "sharp" / "a.png", texture(64, 72))
    blur, sharp = (tmp_path / "pairs" / part / "a.png" for part in ("blur", "sharp"))
    hint = "hint: the two images of a pair must show the same pixels: make them of equal size"
    assert error(tmp_path) == f"{blur}: is 48x40 but {sharp} is 72x64\n{hint}"


def test_unreadable_image_is_found_when_opening(tmp_path):
    write_pairs(tmp_path / "pairs", ["a", "b"])
    path = tmp_path / "pairs" / "sharp" / "b.png"
    path.write_bytes(b"\x00" * 100)
    hint = "hint: remove it or copy it again; readable are PNG, JPEG, BMP, TIFF and WebP"
    assert error(tmp_path) == f"{path}: not a readable image\n{hint}"


def test_truncated_image_is_found_when_reading(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"], size=(160, 160))
    path = tmp_path / "pairs" / "blur" / "a.png"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UsageError, match="not a readable image"):
        source(tmp_path)[0]


def test_every_option_is_described():
    assert all(field.description for field in FolderConfig.model_fields.values())


@pytest.mark.parametrize(("blur", "sharp"), [("input", "target"), ("lq", "gt"), ("train/input", "train/target")])
def test_folders_of_other_names(tmp_path, blur, sharp):
    write_pairs(tmp_path / "pairs", ["a", "b"])
    write_pairs(tmp_path / "others", ["a", "b"], folder=(blur, sharp))
    others = source(tmp_path, "others", blur=blur, sharp=sharp)
    assert others.digest() == source(tmp_path).digest()
    assert [p.name for p in others] == ["a", "b"]


def test_folders_of_other_names_in_the_messages(tmp_path):
    write_pairs(tmp_path / "pairs", ["a"])
    hint = "hint: put blurred images in lq/ and sharp ones, with equal names, in gt/"
    assert error(tmp_path, blur="lq", sharp="gt") == f"{tmp_path / 'pairs'}: holds no folders lq/ and gt/\n{hint}"


@pytest.mark.parametrize("name", ["", ".", "/abs", "../up", "a\\b"])
def test_names_that_lead_elsewhere(name):
    with pytest.raises(ValidationError, match="is not the name of a folder inside 'path'"):
        FolderConfig(path="pairs", blur=name)


def test_one_folder_for_both():
    with pytest.raises(ValidationError, match="blur and sharp name the same folder 'a'"):
        FolderConfig(path="pairs", blur="a", sharp="a")


def test_form_of_the_digest(tmp_path):
    """A change of it would make every cached result of a user's data unreachable."""
    write_pairs(tmp_path / "pairs", ["street/a"])
    files = ["street/a", *(file_digest(tmp_path / "pairs" / part / "street" / "a.png") for part in ("blur", "sharp"))]
    expected = {"files": [files], "scene": "folder", "crop": 16, "decoder": cv2.__version__}
    assert source(tmp_path, scene="folder", crop=16).digest() == value_digest(expected)
