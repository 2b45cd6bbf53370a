"""run.py as a user on the board calls it: a bundle's folder, a process of its own, ONNX Runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from compile.bundle import write_manifest
from eval.receptive import receptive_field
from eval.restorers import open_restorer
from eval.tiling import overlap_for
from tests.boards.bundle_example import NAME, small_bundle
from tests.compile.on_device import runs_in

TILE = 64
SIZES = [(63, 130), (64, 64), (131, 97), (20, 33), (1, 1), (200, 40), (65, 64), (40, 200)]


def picture(height: int, width: int) -> np.ndarray:
    """A piece of a photograph, brighter to the right: tiles differ in their mean."""
    from skimage import data

    image = data.astronaut()[100 : 100 + height, 100 : 100 + width].astype(np.float32)
    return np.ascontiguousarray((image * np.linspace(0.3, 1, width)[:, None]).astype(np.uint8))


def bundle_in_tiles(path: Path, pooled: bool, mixed: bool = True) -> Path:
    """A bundle whose tiles overlap as the compile stage lets them overlap."""
    small_bundle(path / "first", pooled=pooled)
    overlap = overlap_for(receptive_field(path / "first/reference/fp32.onnx", 4), TILE)
    assert (overlap.halo, overlap.blend) == (12, 12 if pooled else 0)
    return small_bundle(path / "bundle", "host", pooled=pooled, tile=(TILE, TILE), halo=overlap.halo, blend=overlap.blend * mixed)


@pytest.mark.parametrize("pooled", [False, True])
def test_the_board_gives_the_pixels_of_the_pipeline(tmp_path: Path, pooled: bool):
    """The same runtime, the same tiles: every pixel of every size is the same."""
    bundle = bundle_in_tiles(tmp_path, pooled)
    (tmp_path / "in").mkdir()
    for size in SIZES:
        cv2.imwrite(str(tmp_path / "in/{}x{}.png".format(*size)), picture(*size)[..., ::-1])
    done = runs_in(bundle)(tmp_path / "in", tmp_path / "out", "--threads", 1, script="run.py")
    assert done.returncode == 0, done.stderr
    with open_restorer(bundle, tile=TILE, threads=1) as restorer:
        for size in SIZES:
            got = cv2.imread(str(tmp_path / "out/{}x{}.png".format(*size)))[..., ::-1]
            assert np.array_equal(got, restorer(picture(*size))), size
            assert size == (1, 1) or not np.array_equal(got, picture(*size))
        assert restorer.plan(131, 97).blend == 12 * pooled


def test_without_mixing_the_pixels_are_others(tmp_path: Path):
    bundle, image = bundle_in_tiles(tmp_path, pooled=True, mixed=False), picture(131, 97)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    assert runs_in(bundle)(tmp_path / "a.png", tmp_path / "b.png", script="run.py").returncode == 0
    with open_restorer(bundle, tile=TILE, threads=1) as restorer:
        assert not np.array_equal(cv2.imread(str(tmp_path / "b.png"))[..., ::-1], restorer(image))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("board") / "bundle", "host")


def save(path: Path, seed: int = 0) -> bytes:
    cv2.imwrite(str(path), np.roll(picture(48, 40), seed, axis=0)[..., ::-1])
    return path.read_bytes()


def clip(path: Path, width: int = 41, height: int = 35) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (width, height))
    for k in range(3):
        writer.write(np.roll(picture(height, width), k, axis=1))
    writer.release()


def test_a_folder_goes_on_behind_what_cannot_be_read_and_loses_nothing(board: Path, tmp_path: Path):
    """A damaged file is said and passed over; two inputs of one name keep apart; videos of the folder are restored too."""
    (tmp_path / "in").mkdir()
    for k, name in enumerate(("a.png", "a.jpg", "a.jpg.png", "b.PPM")):
        save(tmp_path / "in" / name, k)
    (tmp_path / "in/broken.png").write_bytes(b"no picture")
    (tmp_path / "in/notes.txt").write_text("no picture either")
    clip(tmp_path / "in/v.avi")
    done = runs_in(board)(tmp_path / "in", tmp_path / "new/out", script="run.py")
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert f"error: {tmp_path / 'in/broken.png'} is damaged, or no image" in lines
    assert lines[-1] == f"error: 1 of 6 could not be read; the others are in {tmp_path / 'new/out'}"
    out = {p.name: cv2.imread(str(p)) for p in (tmp_path / "new/out").iterdir()}
    assert sorted(out) == ["a.jpg.png", "a.jpg.png.png", "a.png", "b.PPM", "v.mp4"]
    images = [out[name].tobytes() for name in ("a.jpg.png", "a.jpg.png.png", "a.png", "b.PPM")]
    assert len(set(images)) == 4


def test_inputs_are_never_replaced(board: Path, tmp_path: Path):
    image = save(tmp_path / "a.png")
    clip(tmp_path / "v.mp4")
    before = (tmp_path / "v.mp4").read_bytes()
    for words in ((tmp_path / "a.png", tmp_path / "a.png"), (tmp_path, tmp_path), (tmp_path / "v.mp4", tmp_path)):
        done = runs_in(board)(*words, script="run.py")
        assert done.returncode == 2
        assert done.stderr.endswith(" is an input, and inputs are never replaced: name another output\n")
    assert (image, before) == ((tmp_path / "a.png").read_bytes(), (tmp_path / "v.mp4").read_bytes())


def test_a_video_of_odd_sides_loses_its_last_row_and_column(board: Path, tmp_path: Path):
    clip(tmp_path / "v.mp4")
    done = runs_in(board)(tmp_path / "v.mp4", tmp_path / "out", script="run.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith(f"{tmp_path / 'out/v.mp4'}: 3 frames, without sound\nv.mp4: 1 of 1, " + done.stderr.rsplit(", ", 1)[1])
    back = cv2.VideoCapture(str(tmp_path / "out/v.mp4"))
    assert [back.get(k) for k in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT)] == [40, 34, 3]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["v.mp4"]


def test_what_cannot_be_written_is_said_before_the_work(board: Path, tmp_path: Path):
    save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path / "out.xyz": "error: '.xyz' cannot be written by OpenCV: name the output .png\n",
        tmp_path / "file" / "out.png": f"error: {tmp_path / 'file'} cannot be made (File exists): name another output\n",
    }
    for output, text in cases.items():
        done = runs_in(board)(tmp_path / "a.png", output, script="run.py")
        assert (done.returncode, done.stderr) == (2, text)
    done = runs_in(board)("--out", tmp_path / "nowhere/result.json", "--wait", 60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"error: {tmp_path / 'nowhere'} is no folder that can be written: name another --out\n")
    done = runs_in(board)("--threads", -3, "--verify")
    assert done.returncode == 2 and done.stderr.endswith("argument --threads: give 1 to 256, or 0 for all cores\n")


def no_numpy(bundle: Path) -> None:
    (bundle / "numpy.py").write_text("raise ImportError('no numpy here')")


def no_runtime(bundle: Path) -> None:
    (bundle / "onnxruntime.py").write_text("raise ImportError('no runtime here')")


def no_board(bundle: Path) -> None:
    shutil.rmtree(bundle / "board")


def empty_facts(bundle: Path) -> None:
    (bundle / "bundle.json").write_text("{}")
    write_manifest(bundle)


def unknown_to_the_runtime(bundle: Path) -> None:
    (bundle / f"artifacts/{NAME}.onnx").write_bytes(b"a form of tomorrow")
    write_manifest(bundle)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (no_numpy, "no numpy here: pip install numpy (or: apt-get install python3-numpy)"),
        (no_runtime, "onnxruntime cannot be imported (no runtime here): pip install onnxruntime"),
        (no_board, "this folder is not whole (No module named 'board'): copy the bundle again"),
        (empty_facts, "bundle.json is missing or damaged: copy the bundle again"),
        (unknown_to_the_runtime, f"artifacts/{NAME}.onnx cannot be opened by this board's onnxruntime ("),
    ],
)
def test_what_is_missing_on_the_board_is_one_line(board: Path, tmp_path: Path, damage: Callable[[Path], None], text: str):
    bundle = Path(shutil.copytree(board, tmp_path / "bundle"))
    damage(bundle)
    for script in ("run.py", "bench.py"):
        done = runs_in(bundle)("--verify", script=script)
        said = done.stdout + done.stderr
        assert done.returncode in (1, 2) and text in said and said.count("\n") == 1, said
        assert said.startswith("FAIL " if done.returncode == 1 else "error: ")
