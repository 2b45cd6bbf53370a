from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.eval.model_example import photo, write_bundle, write_checkpoint

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a run with a bundle of the same network, three pairs of images and a pipeline file that names them."""
    root = tmp_path_factory.mktemp("evaluate")
    module = write_checkpoint(root / "student.safetensors")
    write_bundle(root / "run" / "bundle", module)
    for i, kernel in enumerate((3, 9, 15)):
        sharp = photo(64 + 8 * i, 96)[..., ::-1]
        for part, image in (("sharp", sharp), ("blur", cv2.blur(sharp, (kernel, 1)))):
            (root / "pairs" / part).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "pairs" / part / f"image{i}.png"), image)
    (root / "pipeline.yaml").write_text(
        "version: 1\ndata: {test: {source: folder, path: pairs, limit: 2}}\nstages: {first: {uses: tests.pipeline.toy_source}}\n"
    )
    return root


def test_the_table_shows_the_figures_and_the_worst_images(cli: Cli, folder: Path) -> None:
    code, out, err = cli("evaluate", folder / "student.safetensors", "--data", folder / "pairs", "--worst", 2)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "(checkpoint, student, torch, fp32) on 3 images, measured on this host" in lines[0]
    assert lines[1].startswith("PSNR: ")
    assert lines[1].endswith(" dB")
    assert lines[2].startswith("SSIM (2d): 0.")
    assert "worst five" not in out, "of three images it is the mean once more"
    assert lines[3].startswith("PSNR gain over the blurred input: ")
    rows = [line.split()[0] for line in lines[4:]]
    assert rows[0] == "worst"
    assert len(rows) == 3


def test_json_stands_alone_and_adds_up(cli: Cli, folder: Path) -> None:
    code, out, _ = cli("evaluate", folder / "student.safetensors", "--data", folder / "pairs", "--json")
    answer = json.loads(out)
    assert code == 0
    assert [i["name"] for i in answer["images"]] == ["image0", "image1", "image2"]
    figures = {m["name"]: m for m in answer["measurements"]}
    assert figures["psnr"]["value"] == pytest.approx(np.mean([i["psnr"] for i in answer["images"]]))
    assert figures["psnr_gain"]["value"] == pytest.approx(np.mean([i["psnr_gain"] for i in answer["images"]]))
    assert figures["psnr"]["evidence"] == "host"
    assert answer["model"]["kind"] == "checkpoint"


def test_a_bundle_scores_like_its_checkpoint(cli: Cli, folder: Path) -> None:
    def score(model: str) -> float:
        return float(json.loads(cli("evaluate", folder / model, "--data", folder / "pairs", "--json")[1])["measurements"][0]["value"])

    assert score("run") == pytest.approx(score("student.safetensors"), abs=0.01)


def test_a_run_is_named_as_elsewhere_and_stands_for_its_bundle(cli: Cli, folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "ws" / "runs"
    shutil.copytree(folder / "run", runs / "20260301-120003-host")
    (runs / "20260301-120003-host" / "run.json").write_text("{}")
    (runs / "latest").symlink_to("20260301-120003-host")
    asked = ("--data", folder / "pairs", "--workspace", tmp_path / "ws", "--json")
    for name in ("latest", "20260301-120003-host", "20260301", runs / "latest"):
        code, out, err = cli("evaluate", name, *asked)
        assert code == 0, err
        assert json.loads(out)["model"]["kind"] == "bundle"


def test_a_run_without_a_bundle(cli: Cli, folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "ws" / "runs" / "20260301-120003-host"
    checkpoint = made / "stages" / "01-teach" / "model.safetensors"
    checkpoint.parent.mkdir(parents=True)
    (made / "run.json").write_text("{}")
    asked = ("--data", folder / "pairs", "--workspace", tmp_path / "ws")
    for name in ("latest", made):
        code, _, err = cli("evaluate", name, *asked)
        hint = "hint: name a run that came to the end of compile"
        assert (code, err) == (2, f"run {made.name}: has no bundle\n{hint}\n")
    shutil.copy(folder / "student.safetensors", checkpoint)
    code, _, err = cli("evaluate", made, *asked)
    assert (code, err.splitlines()[1]) == (2, f"{hint}, or this one's checkpoint {checkpoint}")
    code, _, err = cli("evaluate", "latest", "--data", folder / "pairs", "--workspace", tmp_path / "none")
    assert (code, err.splitlines()[0]) == (2, f"latest: there is no run in {tmp_path / 'none'}")


def test_data_come_from_a_pipeline_file(cli: Cli, folder: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", folder / "student.safetensors", "--pipeline", folder / "pipeline.yaml", "--json", "--save", tmp_path / "out")
    code, out, _ = cli(*arguments)
    assert code == 0
    assert len(json.loads(out)["images"]) == 2
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "evaluate: needs either --data or --pipeline\nhint: say --data DIR, or --pipeline pipeline.yaml --role test\n"),
        (("--data", "DIR", "--pipeline", "FILE"), "evaluate: needs either --data or --pipeline\n"),
        (("--pipeline", "FILE", "--role", "tset"), "--role tset: pipeline.yaml has no such data set\nhint: did you mean 'test'?\n"),
        (("--data", "DIR", "--ssim", "3d"), "--ssim: unknown variant '3d'\nhint: "),
        (("--data", "nowhere"), "nowhere: folder does not exist\nhint: "),
    ],
)
def test_wrong_arguments_take_two_lines_and_exit_2(cli: Cli, folder: Path, options: tuple[str, ...], message: str) -> None:
    names = {"DIR": folder / "pairs", "FILE": folder / "pipeline.yaml"}
    code, out, err = cli("evaluate", folder / "student.safetensors", *(names.get(o, o) for o in options))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 2


def test_help_needs_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from pipeline.cli import main; codes = [main([v, '--help']) for v in ('deblur', 'evaluate')]\n"
        "sys.exit(any(codes) or bool({'torch', 'numpy', 'cv2', 'rich.progress', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.count("Example: python -m pipeline") == 4
