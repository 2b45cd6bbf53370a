import multiprocessing
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data.video import Video, index_video, is_video
from pipeline.errors import UsageError
from tests.data.helpers import panning, psnr, texture, write_video


@pytest.fixture(params=[("mp4v", ".mp4"), ("mp4v", ".mov"), ("mp4v", ".mkv"), ("MJPG", ".avi")], ids=lambda p: p[1])
def clip(tmp_path, request):
    codec, suffix = request.param
    path = tmp_path / f"clip{suffix}"
    write_video(path, panning(100), codec)
    return path


def jpegs(path, sides):
    """Single JPEGs one after another: FFmpeg plays them, but there is no way to seek in them, nor a count of frames."""
    import cv2

    encoded = [cv2.imencode(".jpg", texture(s, s, seed=i))[1].tobytes() for i, s in enumerate(sides)]
    path.write_bytes(b"".join(encoded))


def error(path):
    with pytest.raises(UsageError) as caught:
        Video(path)
    return str(caught.value)


def test_frames_are_those_that_were_written(clip):
    video = Video(clip)
    assert (len(video), video.size) == (100, (64, 96))
    for got, frame in zip(video.read(40, 44), panning(100)[40:44], strict=True):
        assert got.dtype == np.uint8
        assert psnr(got, frame) > 28


def test_same_bytes_in_any_order(clip):
    video = Video(clip)
    forwards = video.read(0, 100)
    windows = [(start, start + length) for start in range(0, 95, 3) for length in (1, 5)]
    random.Random(1).shuffle(windows)
    for start, stop in windows:
        assert all(np.array_equal(a, b) for a, b in zip(video.read(start, stop), forwards[start:stop], strict=True))


def test_a_file_without_seeking(tmp_path):
    """Where a seek leads nowhere, frames are decoded from the first one on."""
    jpegs(tmp_path / "a.avi", [64] * 120)
    video = Video(tmp_path / "a.avi")
    forwards = video.read(0, 120)
    assert len(video) == 120
    for start in (100, 3, 110, 50, 51, 0):
        assert all(np.array_equal(a, b) for a, b in zip(video.read(start, start + 3), forwards[start : start + 3], strict=True))


def test_copy_in_another_process(clip):
    video = Video(clip)
    first = video.read(50, 53)
    copy = pickle.loads(pickle.dumps(video))
    assert all(np.array_equal(a, b) for a, b in zip(copy.read(50, 53), first, strict=True))


def read_all(video, connection):
    connection.send([frame.tobytes() for start in (60, 10, 61) for frame in video.read(start, start + 3)])
    connection.close()


def test_forked_processes_do_not_disturb_one_another(tmp_path):
    """They share the position in a file that was open before the fork."""
    path = tmp_path / "clip.mp4"
    write_video(path, panning(100))
    video = Video(path)
    expected = [frame.tobytes() for start in (60, 10, 61) for frame in video.read(start, start + 3)]
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(3)]
    workers = [context.Process(target=read_all, args=(video, out)) for _, out in pipes]
    for worker in workers:
        worker.start()
    for (inward, _), worker in zip(pipes, workers, strict=True):
        assert inward.poll(60)
        assert inward.recv() == expected
        worker.join(60)
        assert worker.exitcode == 0
    assert [frame.tobytes() for start in (60, 10, 61) for frame in video.read(start, start + 3)] == expected


def test_threads(clip):
    video = Video(clip)
    forwards = video.read(0, 100)
    with ThreadPoolExecutor(4) as pool:
        starts = [(i * 37) % 97 for i in range(24)]
        for start, got in zip(starts, pool.map(lambda s: video.read(s, s + 3), starts), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(got, forwards[start : start + 3], strict=True))


def test_steps_between_frames(tmp_path):
    still, other = texture(64, 96, seed=1), texture(64, 96, seed=2)
    write_video(tmp_path / "a.avi", [still] * 5 + [other] * 5, "MJPG")
    steps = Video(tmp_path / "a.avi").steps()
    difference = np.abs(still.mean(2) - other.mean(2)).mean()
    assert len(steps) == 9
    assert max(steps[:4] + steps[5:]) == 0
    assert 0.6 * difference < steps[4] < 1.4 * difference


def test_a_video_is_indexed_again_when_it_changes(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path, panning(10), "MJPG")
    first = index_video(path)
    assert index_video(path) is first
    write_video(path, panning(12), "MJPG")
    assert len(index_video(path).checks) == 12


def test_a_file_that_changes_while_it_is_open(tmp_path):
    path = tmp_path / "a.avi"
    write_video(path, panning(10), "MJPG")
    video = Video(path)
    write_video(path, panning(10, seed=7), "MJPG")
    with pytest.raises(UsageError) as caught:
        video.read(3, 5)
    assert str(caught.value) == f"{path}: frame 3 has changed since the video was opened\nhint: start again"


def test_files_that_are_no_videos(tmp_path):
    hint = "hint: remove it or copy it again; readable is what OpenCV's FFmpeg decodes"
    assert error(tmp_path / "no.mp4") == f"{tmp_path / 'no.mp4'}: file does not exist\nhint: check the path"
    for content, what in ((b"", "the file is empty"), (b"not a video" * 100, "not a readable video")):
        (tmp_path / "a.mp4").write_bytes(content)
        assert error(tmp_path / "a.mp4").startswith(f"{tmp_path / 'a.mp4'}: {what}\n")
    assert error(tmp_path / "a.mp4").endswith(hint)
    write_video(tmp_path / "b.mp4", panning(50))
    (tmp_path / "b.mp4").write_bytes((tmp_path / "b.mp4").read_bytes()[:8000])
    assert error(tmp_path / "b.mp4") == f"{tmp_path / 'b.mp4'}: not a readable video\n{hint}"


def test_no_other_words_on_a_damaged_file(tmp_path):
    write_video(tmp_path / "a.mp4", panning(50))
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:8000])
    code = f"from pathlib import Path; from data.video import Video; Video(Path({str(tmp_path / 'a.mp4')!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith("Traceback")
    assert "moov" not in done.stderr


def test_frames_are_counted_by_decoding(tmp_path):
    """The container's header still says 60 frames."""
    path = tmp_path / "a.avi"
    write_video(path, panning(60), "MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    hint = "the file is damaged or cut short; copy it again, or leave it out"
    message = error(path)
    assert message.endswith(f"frames can be decoded\nhint: {hint}")
    assert "only 2" in message or "only 3" in message


def test_names_of_videos(tmp_path):
    assert [is_video(tmp_path / name) for name in ("a.MP4", "a.png", ".a.mp4")] == [True, False, False]
