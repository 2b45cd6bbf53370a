from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.test_check import blurred, photo

Cli = Callable[..., tuple[int, str, str]]

STAGES = "stages: {first: {uses: tests.pipeline.toy_source}}\n"


def write(root: Path, name: str, seed: int, lq: np.ndarray | None = None) -> None:
    sharp = photo(seed)
    for part, image in (("sharp", sharp), ("blur", blurred(sharp) if lq is None else lq)):
        (root / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / part / f"{name}.png"), image)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three good pairs for training and two for testing, and a pipeline file that names them."""
    monkeypatch.setenv("COLUMNS", "200")
    for i in range(3):
        write(tmp_path / "train", f"t{i}", i)
    for i in range(2):
        write(tmp_path / "test", f"e{i}", i + 10)
    data = "{train: {source: folder, path: train}, test: {source: folder, path: test}}"
    (tmp_path / "pipeline.yaml").write_text(f"version: 1\ndata: {data}\n{STAGES}")
    return tmp_path


def test_a_good_pipeline(cli: Cli, pairs: Path) -> None:
    code, out, err = cli("dataset", "check", pairs / "pipeline.yaml")
    assert (code, err) == (0, "")
    said = lines(out)
    assert len(said) == 3
    assert said[0].startswith("train: 3 pairs, 3 scenes, 128x96 pixels, blurred images ")
    assert said[1].startswith("test: 2 pairs, 2 scenes, 128x96 pixels, blurred images ")
    assert said[2] == "0 errors, 0 warnings"


def test_everything_wrong_is_in_one_table(cli: Cli, pairs: Path) -> None:
    write(pairs / "train", "still", 4, photo(4))
    write(pairs / "test", "leak", 0)
    write(pairs / "test", "swapped", 20, photo(20))
    cv2.imwrite(str(pairs / "test" / "sharp" / "swapped.png"), blurred(photo(20)))
    path = pairs / "test" / "blur" / "e1.png"
    path.write_bytes(path.read_bytes()[:-3000])
    code, out, err = cli("dataset", "check", pairs / "pipeline.yaml")
    said = lines(out)
    assert code == 2
    errors = [line for line in said if line.startswith("error ")]
    warnings = [line for line in said if line.startswith("warning ")]
    assert said.index(errors[-1]) < said.index(warnings[0])
    assert any(line.startswith("error train no blur still the blurred image equals the sharp one") for line in errors)
    assert any("error test overlap leak@" in line or "error test duplicate leak" in line for line in errors)
    assert any(str(path) in line for line in errors)
    assert any(line.startswith("warning test exchanged? swapped ") for line in warnings)
    assert said[-1] == f"{len(errors)} errors, {len(warnings)} warning{'s' * (len(warnings) != 1)}"
    assert err == f"pipeline.yaml: data: {len(errors)} errors found\nhint: mend or remove what the table names and check again\n"


def test_json_stands_alone(cli: Cli, pairs: Path) -> None:
    write(pairs / "train", "still", 4, photo(4))
    code, out, err = cli("dataset", "check", pairs / "pipeline.yaml", "--json")
    answer = json.loads(out)
    assert code == 2
    assert "1 error found" in err
    assert [(r["role"], r["pairs"], r["scenes"], r["sizes"], r["uneven"]) for r in answer["roles"]] == [
        ("train", 4, 4, [[128, 96]], 0),
        ("test", 2, 2, [[128, 96]], 0),
    ]
    assert 15 < answer["roles"][0]["psnr_input"] < 30
    (finding,) = answer["findings"]
    assert (finding["level"], finding["role"], finding["kind"], finding["where"]) == ("error", "train", "no_blur", "still")
    assert (answer["errors"], answer["warnings"]) == (1, 0)


def test_a_source_without_a_pipeline(cli: Cli, pairs: Path) -> None:
    options = ("dataset", "check", "--source", "folder", "--set", f"path={pairs / 'train'}")
    code, out, _ = cli(*options, "--set", "limit=2")
    assert code == 0
    assert lines(out)[0].startswith("folder: 2 pairs")
    code, out, err = cli(*options, "--crop", 100)
    assert code == 2
    assert "is 128x96 pixels, smaller than the training crop of 100" in " ".join(lines(out))
    assert err.startswith("--source folder: 3 errors found\n")


def test_dotted_options(cli: Cli) -> None:
    options = ("dataset", "check", "--source", "samples", "--set", "split=test", "--set", "count=2", "--set", "size=64")
    soft, hard = (
        json.loads(cli(*options, "--set", f"blur.length=[{n},{n}]", "--set", "blur.foreground=0", "--json")[1])["roles"][0]["psnr_input"]
        for n in (2, 20)
    )
    assert soft > hard + 2


def test_the_crop_of_the_pipelines_stages_counts(cli: Cli, pairs: Path) -> None:
    text = (pairs / "pipeline.yaml").read_text().replace(STAGES, "")
    (pairs / "pipeline.yaml").write_text(text + "stages: {teach: {uses: distill.teach, with: {arch: nafnet, train: {crop: 112}}}}\n")
    code, out, _ = cli("dataset", "check", pairs / "pipeline.yaml")
    assert code == 2
    said = [line for line in lines(out) if "smaller than the training crop of 112" in line]
    assert len(said) == 3
    assert all(line.startswith("error train size t") for line in said)


def test_quick_finds_shared_scenes_but_decodes_nothing(cli: Cli, pairs: Path) -> None:
    write(pairs / "train", "still", 4, photo(4))
    code, out, _ = cli("dataset", "check", pairs / "pipeline.yaml", "--quick")
    assert (code, lines(out)[0]) == (0, "train: 4 pairs, 4 scenes")
    write(pairs / "test", "leak", 0)
    code, out, _ = cli("dataset", "check", pairs / "pipeline.yaml", "--quick")
    assert code == 2
    assert "this scene is also in train" in out


def test_many_findings_of_a_kind_are_shortened(cli: Cli, pairs: Path) -> None:
    for i in range(25):
        write(pairs / "train", f"same{i:02d}", 30 + i, photo(30 + i))
    code, out, _ = cli("dataset", "check", pairs / "pipeline.yaml")
    assert code == 2
    assert sum(line.startswith("error train no blur") for line in lines(out)) == 20
    assert "and 5 more of kind 'no blur' in train: --all lists them" in lines(out)
    _, out, _ = cli("dataset", "check", pairs / "pipeline.yaml", "--all")
    assert sum(line.startswith("error train no blur") for line in lines(out)) == 25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "dataset check: needs either a pipeline file or --source\nhint: give PIPELINE, or --source folder --set path=DIR\n"),
        (("--source", "foldr"), "--source: unknown data source 'foldr'\nhint: did you mean 'folder'?\n"),
        (("--source", "folder"), "--set: path: is missing\nhint: add 'path:' there\n"),
        (("--source", "folder", "--set", "path"), "--set path: is not of the form key=value\nhint: e.g. --set path=my/pairs\n"),
        (("--source", "folder", "--set", "path=x", "--set", "limt=2"), "--set: limt: unknown key\nhint: did you mean 'limit'?\n"),
    ],
)
def test_wrong_arguments(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = cli("dataset", "check", *arguments)
    assert (code, out) == (2, "")
    assert err == said


def test_a_missing_folder_is_a_finding(cli: Cli, pairs: Path) -> None:
    code, out, err = cli("dataset", "check", "--source", "folder", "--set", f"path={pairs / 'no'}")
    assert code == 2
    assert "folder does not exist" in out
    assert "folder: 0 pairs, 0 scenes" in out
    assert "1 error found" in err


def test_pack_then_check_then_train_on_it(cli: Cli, pairs: Path) -> None:
    pytest.importorskip("lmdb")
    code, out, err = cli("dataset", "pack", pairs / "pipeline.yaml", "--role", "train", "--out", pairs / "packed", "--crop", 64)
    assert (code, err) == (0, "")
    said = lines(out)
    assert said[0].startswith(f"18 pairs from 3 in {pairs / 'packed'}, ")
    assert said[0].endswith(" s")
    assert said[1] == f"use it: {{source: lmdb, path: {pairs / 'packed'}}}"
    code, out, _ = cli("dataset", "check", "--source", "lmdb", "--set", f"path={pairs / 'packed'}", "--crop", 64)
    assert code == 0
    assert lines(out)[0].startswith("lmdb: 18 pairs, 3 scenes, 64x64 pixels, ")


def test_pack_whole_images_as_json(cli: Cli, pairs: Path) -> None:
    pytest.importorskip("lmdb")
    options = ("--source", "folder", "--set", f"path={pairs / 'test'}", "--out", pairs / "packed", "--json")
    code, out, _ = cli("dataset", "pack", *options)
    answer = json.loads(out)
    assert code == 0
    assert (answer["images"], answer["pairs"]) == (2, 2)
    assert answer["bytes"] > 0
    code, _, err = cli("dataset", "pack", *options)
    assert code == 2
    assert err == f"--out {pairs / 'packed'}: exists already\nhint: name a new folder, or remove this one first\n"


def test_pack_an_unknown_role(cli: Cli, pairs: Path) -> None:
    code, _, err = cli("dataset", "pack", pairs / "pipeline.yaml", "--role", "trian", "--out", pairs / "packed")
    assert code == 2
    assert err == "--role trian: pipeline.yaml has no such data set\nhint: did you mean 'train'?\n"


@pytest.mark.parametrize("command", ["check", "pack"])
def test_help_has_examples(cli: Cli, command: str) -> None:
    code, out, _ = cli("dataset", command, "--help")
    assert code == 0
    assert out.count(f"Example: python -m pipeline dataset {command}") == 2
