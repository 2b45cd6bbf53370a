from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.eval.model_example import photo, write_bundle, write_checkpoint

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    module = write_checkpoint(folder / "student.safetensors")
    write_bundle(folder / "run" / "bundle", module, (64, 96))
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), photo(70, 110)[..., ::-1])
    cv2.imwrite(str(folder / "sub" / "b.jpg"), photo(64, 64)[..., ::-1])
    cv2.imwrite(str(folder / "sub" / "grey.png"), photo(50, 60)[..., 0])
    return folder


@pytest.mark.parametrize("model", ["student.safetensors", "run"])
def test_a_folder_comes_back_restored_and_mirrored(cli: Cli, models: Path, images: Path, tmp_path: Path, model: str) -> None:
    before = {p: p.read_bytes() for p in images.rglob("*") if p.is_file()}
    code, out, err = cli("deblur", models / model, images, "--out", tmp_path / "out", "--threads", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"restored 3 of 3 into {tmp_path / 'out'} in ")
    shapes = {
        p.relative_to(tmp_path / "out").as_posix(): cv2.imread(str(p), cv2.IMREAD_UNCHANGED).shape for p in (tmp_path / "out").rglob("*.*")
    }
    assert shapes == {"a.png": (70, 110, 3), "sub/b.jpg": (64, 64, 3), "sub/grey.png": (50, 60)}
    assert not np.array_equal(cv2.imread(str(tmp_path / "out" / "a.png")), cv2.imread(str(images / "a.png")))
    assert before == {p: p.read_bytes() for p in images.rglob("*") if p.is_file()}


def test_a_run_is_named_as_elsewhere(cli: Cli, models: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "run", tmp_path / "runs" / "20260301-120003-host")
    code, out, err = cli("deblur", "latest", images / "a.png", "--out", tmp_path / "out", "--workspace", tmp_path, "--json")
    assert code == 0, err
    assert json.loads(out)["model"]["kind"] == "bundle"


def test_why_an_image_is_cut_is_said_once_a_size(cli: Cli, models: Path, images: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(images / "same.png"), photo(70, 110)[..., ::-1])
    code, out, err = cli("deblur", models / "run", images, "--out", tmp_path / "out", "--threads", 1)
    assert (code, err) == (0, "")
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    why = "the network pools over the whole image twice, here over each tile, and sees 39 pixels far"
    how = "tiles of 96x64, the network takes no other size; they overlap by 16 pixels a side and are mixed over"
    assert notes == [f"note: 110x70 is cut into 4 {how} 16: {why}"]
    code, out, _ = cli("deblur", models / "student.safetensors", images / "a.png", "--out", tmp_path / "out2", "--tile", 32)
    assert "note: 110x70 is cut into 24 tiles of 32x32, as --tile asks; they overlap by 8 pixels a side and are mixed over 8: " in out
    code, out, _ = cli("deblur", models / "student.safetensors", images, "--out", tmp_path / "out3")
    assert (code, "note:" in out) == (0, False)


def test_json_stands_alone_on_standard_output(cli: Cli, models: Path, images: Path, tmp_path: Path) -> None:
    code, out, _ = cli("deblur", models / "student.safetensors", images / "a.png", "--out", tmp_path / "out", "--tile", 32, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["model"]["arch"] == "student"
    assert answer["model"]["tile"] == 32
    row = answer["results"][0]
    assert row.pop("seconds") > 0
    assert row == {"input": str(images / "a.png"), "output": str(tmp_path / "out" / "a.png"), "error": "", "width": 110, "height": 70}


def test_an_unreadable_image_is_said_and_the_others_are_done(cli: Cli, models: Path, images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_bytes(b"no picture")
    code, out, err = cli("deblur", models / "student.safetensors", images, "--out", tmp_path / "out")
    assert code == 2
    assert "restored 3 of 4" in out
    assert err.splitlines() == [
        f"warning: {images / 'bad.png'}: not a readable image",
        "deblur: 1 of 4 inputs could not be restored: bad.png",
        f"hint: the warnings above say why; the other 3 are in {tmp_path / 'out'}",
    ]
    assert not (tmp_path / "out" / "bad.png").exists()


def test_results_are_replaced_only_by_force_and_inputs_never(cli: Cli, models: Path, images: Path, tmp_path: Path) -> None:
    arguments = ("deblur", models / "student.safetensors", images / "a.png", "--out", tmp_path / "out")
    assert cli(*arguments)[0] == 0
    code, _, err = cli(*arguments)
    assert code == 2
    assert err == f"{tmp_path / 'out' / 'a.png'}: exists already\nhint: name another --out, or say --force to replace it\n"
    assert cli(*arguments, "--force")[0] == 0
    code, _, err = cli("deblur", models / "student.safetensors", images / "a.png", "--out", images, "--force")
    assert code == 2
    assert "inputs are never replaced" in err


def test_a_video_is_restored(cli: Cli, models: Path, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for i in range(3):
        writer.write(np.roll(photo(48, 64), i, axis=1))
    writer.release()
    code, out, _ = cli("deblur", models / "student.safetensors", tmp_path / "in.mp4", "--out", tmp_path / "out")
    assert code == 0
    assert "3 frames" in out
    assert cv2.VideoCapture(str(tmp_path / "out" / "in.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


@pytest.mark.parametrize(
    ("arguments", "first_line"),
    [
        (("nothing.safetensors", "IN"), "nothing.safetensors: no such file or folder"),
        (("MODEL", "missing.png"), "missing.png: no such file or folder"),
        (("MODEL", "IN", "--tile", 30), "--tile: 30 is no multiple of "),
        (("IN", "IN"), "IN: is a folder, but no bundle"),
    ],
)
def test_wrong_arguments_take_two_lines_and_exit_2(
    cli: Cli, models: Path, images: Path, tmp_path: Path, arguments: tuple[object, ...], first_line: str
) -> None:
    names = {"MODEL": models / "student.safetensors", "IN": images}
    code, out, err = cli("deblur", *(names.get(str(a), a) for a in arguments), "--out", tmp_path / "out")
    lines = err.splitlines()
    assert (code, out, len(lines)) == (2, "", 2)
    assert lines[0].startswith(first_line.replace("IN", str(images)))
    assert lines[1].startswith("hint: ")
