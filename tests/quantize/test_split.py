"""Who calibrates and who judges."""

import numpy as np

from pipeline.contract import Pair
from quantize.split import Without, split


class Scenes:
    """Pairs of the given scenes; a pair's name is its scene and its place."""

    def __init__(self, *scenes):
        self.names = scenes

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        image = np.full((8, 8, 3), index, np.uint8)
        return Pair(image, image, f"{self.names[index]}-{index}", self.names[index])

    def digest(self):
        return "".join(self.names)

    def scenes(self):
        return {name: f"content of {name}" for name in self.names}


TRAIN = Scenes("x", "y", "z", "x", "y", "z")


def names(pairs):
    return {pair.name for pair in pairs}


def scenes(pairs):
    return {pair.scene for pair in pairs}


def test_no_scene_calibrates_and_judges():
    parts = split(Scenes(*"aabbccdd"), TRAIN, 16)
    assert scenes(parts.calibrating) | scenes(parts.judging) == set("abcd")
    assert not scenes(parts.calibrating) & scenes(parts.judging)
    assert len(parts.calibrating) == len(parts.judging) == 4
    assert parts.train is TRAIN
    assert parts.note == ("4 pictures of 2 scenes of the calibration set calibrate, 4 pictures of 2 scenes judge: no scene does both")


def test_the_parts_do_not_depend_on_the_order_of_the_pairs():
    one, other = split(Scenes(*"abcdef"), TRAIN, 16), split(Scenes(*"fedcba"), TRAIN, 16)
    assert scenes(one.judging) == scenes(other.judging)


def test_no_more_pairs_are_used_than_asked_for_and_they_are_spread():
    parts = split(Scenes(*"aaaabbbbccccdddd"), TRAIN, 4)
    assert names([*parts.calibrating, *parts.judging]) == {"a-0", "b-5", "c-10", "d-15"}


def test_a_large_scene_leaves_the_others_to_the_other_part():
    parts = split(Scenes(*"aaaaaab"), TRAIN, 16)
    assert (scenes(parts.judging), scenes(parts.calibrating)) == ({"a"}, {"b"})


def test_one_scene_judges_whole_and_training_pictures_calibrate():
    parts = split(Scenes(*"aaaaaa"), TRAIN, 4)
    assert (scenes(parts.judging), len(parts.judging)) == ({"a"}, 4)
    assert scenes(parts.calibrating) <= set("xyz")
    why = "the calibration set has 4 pictures of 1 scene, too little to share out"
    assert parts.note == f"{why}: it judges, 4 pictures of 2 scenes of the training calibrate"


def test_three_pictures_are_too_few_to_share_out():
    parts = split(Scenes(*"abc"), TRAIN, 16)
    assert scenes(parts.judging) == set("abc")
    assert scenes(parts.calibrating) == set("xyz")


def test_training_leaves_out_the_scenes_that_judge():
    train = Scenes(*"abcdxx")
    parts = split(Scenes(*"abcd"), train, 16)
    seen = [parts.train[i] for i in range(len(parts.train))]
    assert len(parts.train) == len(train)
    assert not scenes(seen) & scenes(parts.judging)
    assert scenes(parts.calibrating) | {"x"} == scenes(seen)
    assert set(parts.train.scenes()) == scenes(seen)
    assert parts.train.digest() != train.digest()
    assert parts.note.endswith("; the training leaves 2 scenes out that judge")


def test_equal_content_under_another_name_is_the_same_scene():
    class Renamed(Scenes):
        def scenes(self):
            return {"x": "content of a", "y": "content of y", "z": "content of z"}

    parts = split(Scenes(*"aaaa"), Renamed(*"xyz"), 16)
    assert not scenes(parts.calibrating) & {"x"}
    assert isinstance(parts.train, Without)


def test_where_there_is_nothing_else_the_note_says_so():
    parts = split(Scenes(*"aa"), Scenes(*"aaa"), 16)
    assert names(parts.calibrating) == names(parts.judging) == {"a-0", "a-1"}
    assert parts.note == (
        "2 pictures of 1 scene are all there is: the same pictures calibrate and judge, which flatters calibration; "
        "the training sees them too, for it has no other scenes"
    )
