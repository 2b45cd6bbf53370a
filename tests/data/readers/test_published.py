"""The readers of published data sets and of lists."""

import importlib
import shutil

import numpy as np
import pytest
from pydantic import ValidationError

from data.images import read_image
from pipeline.errors import UsageError
from tests.data.readers import layouts


def reader(name):
    return importlib.import_module(f"data.readers.{name}").READER


def source(name, base, path="set", **options):
    return reader(name).open(reader(name).config(path=path, **options), base, 1)


def error(name, base, path="set", **options):
    with pytest.raises(UsageError) as caught:
        source(name, base, path, **options)
    return str(caught.value)


def names(opened):
    return [p.name for p in opened]


GOPRO = "hint: GOPRO_Large is laid out as train/<sequence>/blur/000001.png and train/<sequence>/sharp/000001.png"
HIDE = "hint: HIDE is laid out as train/*.png, test/test-close-ups/*.png, test/test-long-shot/*.png and, with equal names, GT/*.png"
REDS = "hint: REDS is laid out as train/train_blur/000/00000000.png and train/train_sharp/000/00000000.png"
LINE = "a line of RealBlur's lists reads '<folder>/scene001/gt/gt_1.png <folder>/scene001/blur/blur_1.png'"


@pytest.mark.parametrize("nested", [True, False])
def test_gopro(tmp_path, nested):
    layouts.gopro(tmp_path, nested=nested)
    train, test = source("gopro", tmp_path, split="train"), source("gopro", tmp_path, split="test")
    assert names(train) == [f"{s}__00000{i}" for s in ("GOPR0372_07_00", "GOPR0374_11_01") for i in (1, 2)]
    assert set(train.scenes()) == {"GOPR0372_07_00", "GOPR0374_11_01"}
    assert [p.scene for p in test] == ["GOPR0384_11_00"] * 2
    assert source("gopro", tmp_path, split="train", limit=2, crop=16)[1].gt.shape == (16, 16, 3)


def test_gopro_variants(tmp_path):
    layouts.gopro(tmp_path)
    scene = tmp_path / "set" / "GOPRO_Large" / "test" / "GOPR0384_11_00"
    for variant in ("blur", "blur_gamma"):
        pair = source("gopro", tmp_path, split="test", variant=variant)[0]
        assert np.array_equal(pair.lq, read_image(scene / variant / "000001.png"))
        assert np.array_equal(pair.gt, read_image(scene / "sharp" / "000001.png"))


def test_gopro_that_is_none(tmp_path):
    (tmp_path / "set").mkdir()
    assert error("gopro", tmp_path, split="train") == f"{tmp_path / 'set'}: holds no train/\n{GOPRO}"
    (tmp_path / "set" / "train" / "GOPR1").mkdir(parents=True)
    assert error("gopro", tmp_path, split="train") == f"{tmp_path / 'set' / 'train'}: holds no sequences with blur/ and sharp/\n{GOPRO}"


def test_gopro_reports_all_that_is_missing(tmp_path):
    layouts.gopro(tmp_path, nested=False)
    root = tmp_path / "set" / "train"
    shutil.rmtree(root / "GOPR0372_07_00" / "sharp")
    (root / "GOPR0374_11_01" / "blur" / "000002.png").unlink()
    assert error("gopro", tmp_path, split="train") == f"{root / 'GOPR0372_07_00' / 'sharp'}: folder does not exist\n{GOPRO}"
    opened, problems = reader("gopro").inspect(reader("gopro").config(path="set", split="train"), tmp_path, 1)
    assert names(opened) == ["GOPR0374_11_01__000001"]
    assert [(p.where, p.what) for p in problems] == [
        (str(root / "GOPR0372_07_00" / "sharp"), "folder does not exist"),
        (str(root / "GOPR0374_11_01" / "sharp" / "000002.png"), "has no partner of the same name"),
    ]


def test_hide(tmp_path):
    layouts.hide(tmp_path)
    assert names(source("hide", tmp_path, split="train")) == ["1fromGOPR0950", "2fromGOPR0950"]
    assert names(source("hide", tmp_path, split="test")) == ["3fromGOPR1096", "4fromGOPR0863"]
    assert names(source("hide", tmp_path, split="test", subset="close-ups")) == ["3fromGOPR1096"]
    assert names(source("hide", tmp_path, split="test", subset="long-shot")) == ["4fromGOPR0863"]
    assert set(source("hide", tmp_path, split="train", scene="video").scenes()) == {"GOPR0950"}
    assert len(source("hide", tmp_path, split="train").scenes()) == 2


def test_hide_without_a_sharp_image(tmp_path):
    layouts.hide(tmp_path)
    (tmp_path / "set" / "GT" / "2fromGOPR0950.png").unlink()
    what = f"{tmp_path / 'set'}: 1 image without a partner: train/2fromGOPR0950.png"
    assert error("hide", tmp_path, split="train") == f"{what}\nhint: every image in train/ needs one of the same name in GT/"
    assert len(source("hide", tmp_path, split="test")) == 2


def test_hide_that_is_none(tmp_path):
    layouts.hide(tmp_path)
    shutil.rmtree(tmp_path / "set" / "GT")
    assert error("hide", tmp_path, split="train") == f"{tmp_path / 'set' / 'GT'}: folder does not exist\n{HIDE}"
    shutil.rmtree(tmp_path / "set" / "train")
    assert error("hide", tmp_path, split="train") == f"{tmp_path / 'set'}: holds no train/\n{HIDE}"


def test_hide_train_has_no_subsets():
    with pytest.raises(ValidationError, match="only the test set has a part 'close-ups'; say split: test"):
        reader("hide").config(path="set", split="train", subset="close-ups")


def test_realblur(tmp_path):
    layouts.realblur(tmp_path)
    train = source("realblur", tmp_path, split="train")
    assert names(train) == ["scene001__blur_1", "scene002__blur_1"]
    assert list(train.scenes()) == ["scene001", "scene002"]
    folder = tmp_path / "set" / "RealBlur-J_ECC_IMCORR_centroid_itensity_ref" / "scene001"
    assert np.array_equal(train[0].lq, read_image(folder / "blur" / "blur_1.png"))
    assert np.array_equal(train[0].gt, read_image(folder / "gt" / "gt_1.png"))
    assert names(source("realblur", tmp_path, camera="R", split="test")) == ["scene003__blur_1"]


def test_realblur_columns_may_be_swapped(tmp_path):
    layouts.realblur(tmp_path)
    before = source("realblur", tmp_path, split="train").digest()
    path = tmp_path / "set" / "RealBlur_J_train_list.txt"
    path.write_text("".join(f"{' '.join(line.split()[1::-1])}\n" for line in path.read_text().splitlines()))
    assert source("realblur", tmp_path, split="train").digest() == before


def test_realblur_errors(tmp_path):
    layouts.realblur(tmp_path)
    path = tmp_path / "set" / "RealBlur_J_train_list.txt"
    with path.open("a") as f:
        f.write("a/gt/1.png b/gt/2.png\nX/scene009/gt/gt_1.png X/scene009/blur/blur_1.png\n")
    what = "'a/gt/1.png b/gt/2.png' names no image in a folder gt/ and one in a folder blur/"
    assert error("realblur", tmp_path, split="train") == f"{path}:3: {what}\nhint: {LINE}"
    opened, problems = reader("realblur").inspect(reader("realblur").config(path="set", split="train"), tmp_path, 1)
    assert len(opened) == 2
    assert [p.what for p in problems] == [what, "file does not exist", "file does not exist"]
    path.unlink()
    assert error("realblur", tmp_path, split="train") == (
        f"{tmp_path / 'set'}: holds no RealBlur_J_train_list.txt\nhint: put the list of the data set beside its folders; {LINE}"
    )


def test_reds(tmp_path):
    layouts.reds(tmp_path)
    train = source("reds", tmp_path, split="train")
    assert names(train) == ["000__00000000", "000__00000001", "011__00000000", "011__00000001"]
    assert list(train.scenes()) == ["train/000", "train/011"]
    assert not train.scenes().keys() & source("reds", tmp_path, split="val").scenes().keys()


def test_reds_without_the_folder_of_the_split(tmp_path):
    layouts.reds(tmp_path)
    assert source("reds", tmp_path, "set/train", split="train").digest() == source("reds", tmp_path, split="train").digest()


@pytest.mark.parametrize("chosen", [{"sequences": [11]}, {"sequences": ["011"]}, {"without": ["000"]}])
def test_reds_sequences(tmp_path, chosen):
    layouts.reds(tmp_path)
    assert list(source("reds", tmp_path, split="train", **chosen).scenes()) == ["train/011"]


def test_reds_errors(tmp_path):
    layouts.reds(tmp_path)
    sharp = tmp_path / "set" / "train" / "train_sharp"
    assert error("reds", tmp_path, split="train", sequences=[1]) == f"{sharp}: there is no sequence '001'\nhint: did you mean '011'?"
    assert error("reds", tmp_path, split="train", without=[0, 11]) == f"{sharp}: holds no sequence to use\n{REDS}"
    assert error("reds", tmp_path, split="train", blur="blur_jpeg").startswith(f"{sharp.parent / 'train_blur_jpeg'}: folder does not exist")
    shutil.rmtree(sharp / "011")
    assert error("reds", tmp_path, split="train") == f"{sharp / '011'}: folder does not exist\n{REDS}"
    shutil.rmtree(tmp_path / "set" / "train")
    assert error("reds", tmp_path, split="train") == f"{tmp_path / 'set'}: holds no train_blur/ or train_sharp/\n{REDS}"


def test_list(tmp_path):
    layouts.listed(tmp_path)
    opened = source("list", tmp_path, "list.txt")
    assert names(opened) == ["my set__blur__a", "my set__blur__b"]
    assert np.array_equal(opened[0].lq, read_image(tmp_path / "my set" / "blur" / "a.png"))
    assert set(source("list", tmp_path, "list.txt", scene="folder").scenes()) == {"my set/sharp"}
    swapped = source("list", tmp_path, "list.txt", order="sharp-blur")[0]
    assert np.array_equal(swapped.gt, opened[0].lq)
    assert swapped.name == "my set__sharp__a"


def test_list_with_a_root_and_with_absolute_paths(tmp_path):
    layouts.listed(tmp_path)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "l.txt").write_text(f"blur/a.png '{tmp_path / 'my set' / 'sharp' / 'a.png'}'\n")
    assert names(source("list", tmp_path, "lists/l.txt", root="my set")) == ["blur__a"]
    (tmp_path / "lists" / "l.txt").write_text("'../my set/blur/a.png' '../my set/sharp/a.png'\n")
    assert names(source("list", tmp_path, "lists/l.txt")) == ["my set__blur__a"]


def test_list_errors(tmp_path):
    layouts.listed(tmp_path)
    path = tmp_path / "list.txt"
    with path.open("a") as f:
        f.write("only.png\na b c\n'my set/blur/a.png' 'my set/sharp/b.png'\nno.png 'my set/sharp/a.png'\n.. .\n")
    hint = "write one pair per line, two paths with a space between them; put a path that contains spaces in quotes"
    assert error("list", tmp_path, "list.txt") == f"{path}:5: names 1 path, not two\nhint: {hint}"
    opened, problems = reader("list").inspect(reader("list").config(path="list.txt"), tmp_path, 1)
    assert len(opened) == 2
    first = tmp_path / "my set" / "blur" / "a.png"
    assert [(p.where, p.what) for p in problems] == [
        (f"{path}:5", "names 1 path, not two"),
        (f"{path}:6", "names 3 paths, not two"),
        (str(first), f"makes a second pair of the name 'my set__blur__a', after {first}"),
        (str(tmp_path / "no.png"), "file does not exist"),
        (str(tmp_path / ".."), "cannot be opened (Is a directory)"),
        (str(tmp_path), "cannot be opened (Is a directory)"),
    ]
