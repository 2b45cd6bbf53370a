import pickle
import random

import numpy as np
import pytest
from pydantic import ValidationError

from data.frames import expose
from data.images import write_image
from data.readers.frames import READER, FramesConfig
from pipeline.errors import UsageError
from tests.data.helpers import panning, psnr, texture, write_video


def source(base, path="clip.mp4", **options):
    return READER.open(READER.config(path=path, **options), base, 1)


def inspect(base, path=".", **options):
    opened, problems = READER.inspect(READER.config(path=path, **options), base, 1)
    return opened, [(p.where, p.what) for p in problems]


def write_frames(folder, frames):
    for i, frame in enumerate(frames):
        write_image(folder / f"{i + 1:06d}.png", frame)


def clips(base):
    """A sequence with motion, one without, one with a cut after its 7th frame."""
    write_frames(base / "moving", panning(14, height=40, width=48))
    write_frames(base / "still", [texture(40, 48, seed=1)] * 14)
    write_frames(base / "cut", [*panning(7, height=40, width=48), *panning(7, height=40, width=48, seed=9)])


def test_averages_of_a_sequence(tmp_path):
    frames = panning(16)
    write_frames(tmp_path / "street", frames)
    opened = source(tmp_path, ".", average=5)
    assert [(p.name, p.scene) for p in opened] == [("street__000002", "street"), ("street__000007", "street"), ("street__000012", "street")]
    assert np.array_equal(opened[1].gt, frames[7])
    assert np.array_equal(opened[1].lq, expose(frames[5:10], 2.2))
    assert np.array_equal(source(tmp_path, ".", average=5, gamma="srgb")[1].lq, expose(frames[5:10], "srgb"))
    assert np.array_equal(source(tmp_path, ".", average=5, gamma=1, crop=32)[1].lq, expose(frames[5:10], 1)[16:48, 32:64])


@pytest.mark.parametrize(("codec", "file"), [("mp4v", "clip.mp4"), ("MJPG", "clip.avi")])
def test_averages_of_a_video(tmp_path, codec, file):
    frames = panning(40)
    write_video(tmp_path / file, frames, codec)
    opened = source(tmp_path, file, average=7)
    assert len(opened) == 5
    for i in (3, 0):
        assert psnr(opened[i].gt, frames[7 * i + 3]) > 28
        assert psnr(opened[i].lq, expose(frames[7 * i : 7 * i + 7], 2.2)) > 28
    assert opened[2].name == "clip__000017"


def test_same_pairs_in_any_order(tmp_path):
    write_video(tmp_path / "clip.mp4", panning(60))
    opened = source(tmp_path, average=5, stride=2)
    forwards = [opened[i] for i in range(len(opened))]
    order = list(range(len(opened)))
    random.Random(3).shuffle(order)
    again = pickle.loads(pickle.dumps(opened))
    assert all(np.array_equal(again[i].lq, forwards[i].lq) and np.array_equal(again[i].gt, forwards[i].gt) for i in order)


def test_stride_and_limit(tmp_path):
    write_video(tmp_path / "clip.mp4", panning(20))
    assert len(source(tmp_path, average=7)) == 2
    assert len(source(tmp_path, average=7, stride=1)) == 14
    assert [p.name for p in source(tmp_path, average=3, stride=1, limit=3)] == ["clip__000001", "clip__000007", "clip__000013"]


def test_static_frames_and_cuts_are_left_out(tmp_path):
    clips(tmp_path)
    assert len(source(tmp_path, ".", average=5)) == 6
    names = [p.name for p in source(tmp_path, "moving", average=5, least_motion=0.5)]
    assert names == ["moving__000002", "moving__000007"]
    opened, problems = inspect(tmp_path, average=5, most_motion=30)
    assert [p.name for p in opened if p.scene == "cut"] == ["cut__000002"]
    assert problems == []


def test_static_frames_and_cuts_are_refused(tmp_path):
    clips(tmp_path)
    opened, problems = inspect(tmp_path, average=5, least_motion=0.5, most_motion=30, unsuitable="refuse")
    assert [p.name for p in opened] == ["cut__000002", "moving__000002", "moving__000007"]
    assert [where for where, _ in problems] == [str(tmp_path / "cut"), str(tmp_path / "still")]
    assert problems[0][1].startswith("from frame 5 on, there is a cut: a difference of ")
    assert problems[1][1] == "has no suitable frames: from frame 0 on, nothing moves: a difference of 0.00 levels, below 0.5"
    with pytest.raises(UsageError) as caught:
        source(tmp_path, "cut", average=5, most_motion=30, unsuitable="refuse")
    assert caught.value.hint == "say 'unsuitable: skip' to leave such frames out"


def test_a_sequence_that_is_all_unsuitable_is_refused_even_when_skipping(tmp_path):
    clips(tmp_path)
    with pytest.raises(UsageError) as caught:
        source(tmp_path, "still", average=5, least_motion=0.5)
    assert caught.value.hint == "change 'least_motion' or 'most_motion', or leave the sequence out"


def test_too_few_frames_and_too_small_ones(tmp_path):
    write_frames(tmp_path / "short", panning(5))
    write_frames(tmp_path / "small", [texture(8, 48)] * 9)
    write_video(tmp_path / "brief.mp4", panning(4))
    opened, problems = inspect(tmp_path)
    assert opened is None
    assert problems == [
        (str(tmp_path / "brief.mp4"), "has 4 frames, fewer than the 7 of one average"),
        (str(tmp_path / "short"), "has 5 frames, fewer than the 7 of one average"),
        (str(tmp_path / "small"), "is 48x8 pixels; the shorter side must have at least 16"),
    ]


def test_a_broken_video_beside_a_sound_one(tmp_path):
    write_video(tmp_path / "a.mp4", panning(9))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    opened, problems = inspect(tmp_path)
    assert [p.scene for p in opened] == ["a"]
    assert problems == [(str(tmp_path / "b.mp4"), "not a readable video")]


def test_digest_follows_what_decides_the_bytes(tmp_path):
    write_video(tmp_path / "clip.mp4", panning(30))
    others = [{}, {"average": 5}, {"stride": 3}, {"gamma": 1}, {"gamma": "srgb"}, {"crop": 32}, {"limit": 2}]
    digests = {source(tmp_path, **options).digest() for options in others}
    assert source(tmp_path, average=7, stride=7, gamma=2.2).digest() in digests
    write_video(tmp_path / "clip.mp4", panning(30, seed=5))
    digests.add(source(tmp_path).digest())
    assert len(digests) == len(others) + 1


def test_one_video_in_two_places_is_one_scene(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / f"{name}.avi", panning(9), "MJPG")
    one, two = source(tmp_path, "one"), source(tmp_path, "two/two.avi", average=3)
    assert set(one.scenes().values()) == set(two.scenes().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": 8}, "8 is even: the sharp image is the middle frame, so the number must be odd"),
        ({"least_motion": 5, "most_motion": 2}, "most_motion 2 is below least_motion 5"),
        ({"gamma": 0}, "greater than 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValidationError, match=message):
        FramesConfig(path="x", **options)
