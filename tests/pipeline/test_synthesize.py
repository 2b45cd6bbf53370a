from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.images import read_image, write_image
from data.readers.folder import READER, FolderConfig
from data.readers.sharp import READER as SHARP
from data.readers.sharp import SharpConfig
from tests.data.helpers import panning, psnr, texture, write_video


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(("a", "b", "sub/c")):
        write_image(tmp_path / "photos" / f"{name}.png", texture(120, 136, seed=i))
    return tmp_path / "photos"


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def opened(folder: Path):
    return READER.open(FolderConfig(path=folder, scene="folder"), Path(), 0)


def test_pairs_of_photographs(cli, photos: Path, tmp_path: Path):
    out = tmp_path / "new" / "pairs"
    code, said, err = cli("synthesize", photos, "--out", out, "--count", 5, "--seed", 7, "--set", "size=64")
    assert (code, err) == (0, "")
    assert said.startswith(f"5 pairs of 3 scenes in {out}, ") and said.endswith(
        f"\nuse it: {{source: folder, path: {out}, scene: folder}}\n"
    )
    pairs = opened(out)
    made = SHARP.open(SharpConfig(path=photos, count=5, size=64), Path(), 7)
    written = [pairs[i] for i in range(len(pairs))]
    assert len(pairs) == 5 and len(pairs.scenes()) == 3
    for pair in (made[i] for i in range(5)):
        (again,) = [p for p in written if p.name.endswith(pair.name)]
        assert np.array_equal(again.lq, pair.lq) and np.array_equal(again.gt, pair.gt) and psnr(again.lq, again.gt) < 45
    record = json.loads((out / "synthesis.json").read_text())
    assert record == {"source": "sharp", "seed": 7, "options": {"size": 64, "count": 5}, "pairs": 5, "scenes": 3, "digest": made.digest()}
    assert {p.name for p in out.parent.iterdir()} == {"pairs"}, "no draft is left"


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(cli, photos: Path, tmp_path: Path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert cli("synthesize", photos, "--out", tmp_path / name, "--seed", seed)[0] == 0
    a, b, c = (content(tmp_path / name) for name in "abc")
    assert a == b and len(a) == 7
    blurred = [name for name in a if name.startswith("blur/")]
    assert len(blurred) == 3 and not any(a[name] == c.get(name) for name in blurred)


def test_options_of_the_blur(cli, photos: Path, tmp_path: Path):
    def mean_psnr(name: str, length: int) -> float:
        options = ("--set", f"blur.length=[{length},{length}]", "--set", "blur.foreground=0")
        assert cli("synthesize", photos, "--out", tmp_path / name, *options)[0] == 0
        pairs = opened(tmp_path / name)
        return float(np.mean([psnr(pairs[i].lq, pairs[i].gt) for i in range(len(pairs))]))

    assert mean_psnr("soft", 2) > mean_psnr("hard", 20) + 2


def test_a_video(cli, tmp_path: Path):
    write_video(tmp_path / "clip.mp4", panning(15))
    code, said, err = cli("synthesize", tmp_path / "clip.mp4", "--out", tmp_path / "pairs", "--set", "average=5", "--json")
    answer = json.loads(said)
    assert (code, err) == (0, "") and (answer["pairs"], answer["scenes"]) == (3, 1) and answer["bytes"] > 0
    assert answer["use"] == {"source": "folder", "path": str(tmp_path / "pairs"), "scene": "folder"}
    pairs = opened(tmp_path / "pairs")
    assert len(pairs) == 3 and all(psnr(pairs[i].lq, pairs[i].gt) < 45 for i in range(3))


def test_a_folder_of_videos_is_footage_and_one_of_frames_when_said(cli, tmp_path: Path):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "one.mp4", panning(7))
    assert cli("synthesize", tmp_path / "clips", "--out", tmp_path / "p")[1].startswith("1 pair of 1 scene in ")
    frames = panning(9)
    for i, frame in enumerate(frames):
        write_image(tmp_path / "walk" / f"{i:04d}.png", frame)
    code, _, err = cli("synthesize", tmp_path / "walk", "--frames", "--out", tmp_path / "q", "--count", 2, "--set", "average=3")
    assert (code, err) == (0, "") and len(opened(tmp_path / "q")) == 2
    sharp = [read_image(p) for p in sorted((tmp_path / "q" / "sharp").rglob("*.png"))]
    assert all(any(np.array_equal(image, frame) for frame in frames) for image in sharp)


def test_nothing_is_overwritten(cli, photos: Path, tmp_path: Path):
    (tmp_path / "pairs").mkdir()
    said = f"--out {tmp_path / 'pairs'}: exists already\nhint: name a new folder, or remove this one first\n"
    assert cli("synthesize", photos, "--out", tmp_path / "pairs") == (2, "", said)
    assert list((tmp_path / "pairs").iterdir()) == []


def test_a_picture_that_breaks_leaves_nothing_behind(cli, photos: Path, tmp_path: Path):
    path = photos / "b.png"
    path.write_bytes(path.read_bytes()[:-3000] + path.read_bytes()[-12:])
    code, _, err = cli("synthesize", photos, "--out", tmp_path / "pairs")
    assert code == 2 and err.startswith(f"{path}: ") and err.count("\n") == 2
    assert {p.name for p in tmp_path.iterdir()} == {"photos"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "blur.lenght=3"), "--set: blur.lenght: unknown key\nhint: did you mean 'length'?\n"),
        (("--set", "count=3"), "--set count: --count says that\nhint: use --count\n"),
        (("--set", "limit"), "--set limit: is not of the form key=value\nhint: e.g. --set path=my/pairs\n"),
        (("--frames", "--seed", 1), "--seed 1: frames are averaged, nothing is drawn\nhint: leave --seed out\n"),
    ],
)
def test_wrong_arguments(cli, photos: Path, tmp_path: Path, arguments: tuple[object, ...], said: str):
    assert cli("synthesize", photos, "--out", tmp_path / "pairs", *arguments) == (2, "", said)


def test_a_missing_folder(cli, tmp_path: Path):
    code, out, err = cli("synthesize", tmp_path / "no", "--out", tmp_path / "pairs")
    assert (code, out) == (2, "") and err.startswith(f"{tmp_path / 'no'}: folder does not exist\nhint: check the path")


def test_help_has_examples(cli):
    code, out, _ = cli("synthesize", "--help")
    assert code == 0 and out.count("Example: python -m pipeline synthesize") == 2
