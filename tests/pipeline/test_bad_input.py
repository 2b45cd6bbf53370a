"""What a user can get wrong with the shipped pipeline: two lines, exit 2, the value and the next step."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def pairs(folder: Path, names: tuple[str, ...] = ("a", "b"), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for kind in ("blur", "sharp"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            cv2.imwrite(str(folder / kind / f"{name}.png"), rng.integers(0, 256, (160, 160, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def refused(cli, tmp_path: Path):
    def call(*overrides: str, target: str = "jetson-xavier", verb: str = "run") -> str:
        settings = [part for item in overrides for part in ("--set", item)]
        code, out, err = cli(verb, ROOT / "pipeline.yaml", "--target", target, "--workspace", tmp_path / "ws", *settings)
        assert code == 2, err
        where, hint = err.strip().splitlines()
        assert hint.startswith("hint: ") and not (tmp_path / "ws").exists(), "nothing was begun"
        return f"{where}\n{hint}"

    return call


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.prune.with.ration=0.2", "pipeline.yaml: stages.prune.with.ration: unknown key\nhint: did you mean 'ratio'?"),
        ("stages.teach.with.train.step=5", "pipeline.yaml: stages.teach.with.train.step: unknown key\nhint: did you mean 'steps'?"),
        ("stages.teach.with.widht=5", "pipeline.yaml: stages.teach.with.widht: unknown key\nhint: did you mean 'width'?"),
        ("stages.prune.with.ratio=lots", "pipeline.yaml: stages.prune.with.ratio: input should be a valid number"),
        ("stages.prune.with.ratio=1.5", "pipeline.yaml: stages.prune.with.ratio: input should be less than 1 (got 1.5)"),
        ("stages.teach.with.arch=nafnets", "pipeline.yaml: stages.teach.with.arch: "),
        ("stages.teach.with.weights=none.safetensors", "pipeline.yaml: stages.teach.with.weights: no such file 'none.safetensors'"),
        ("data.test.source=sample", "pipeline.yaml: data.test.source: unknown data source 'sample'\nhint: did you mean 'samples'?"),
        ("data.test.split=train", "pipeline.yaml: data.test: scene '"),
    ],
)
def test_configuration(refused, override: str, message: str):
    assert refused(override).startswith(message)


def test_an_unknown_target(refused):
    assert refused(target="jetson-xaver") == "--target: unknown target 'jetson-xaver'\nhint: did you mean 'jetson-xavier'?"


def test_malformed_yaml_and_a_missing_file(cli, tmp_path: Path):
    path = tmp_path / "p.yaml"
    path.write_text("version: 1\nstages: {a: [}\n")
    code, _, err = cli("run", path, "--target", "host")
    assert code == 2 and err.startswith(f"{path}:2:14: malformed YAML") and len(err.strip().splitlines()) == 2
    code, _, err = cli("run", tmp_path / "q.yaml", "--target", "host")
    assert code == 2 and err.startswith(f"{tmp_path / 'q.yaml'}: no such file")


def use(folder: Path, role: str = "test") -> str:
    return f"data.{role}={{source: folder, path: {folder}}}"


def test_a_missing_or_empty_folder(refused, tmp_path: Path):
    assert "none" in refused(use(tmp_path / "none"))
    for kind in ("blur", "sharp"):
        (tmp_path / "empty" / kind).mkdir(parents=True)
    assert str(tmp_path / "empty") in refused(use(tmp_path / "empty"))


def test_an_unpaired_image(refused, tmp_path: Path):
    folder = pairs(tmp_path / "pairs")
    (folder / "sharp" / "b.png").unlink()
    text = refused(use(folder))
    assert "b" in text and "sharp" in text


def test_an_unreadable_image(refused, tmp_path: Path):
    folder = pairs(tmp_path / "pairs")
    (folder / "blur" / "b.png").write_bytes(b"no picture")
    assert "b.png" in refused(use(folder))


def test_sizes_that_differ(refused, tmp_path: Path):
    folder = pairs(tmp_path / "pairs")
    cv2.imwrite(str(folder / "blur" / "b.png"), np.zeros((64, 96, 3), np.uint8))
    assert "96x64" in refused(use(folder))


def test_a_photograph_that_is_in_train_and_in_test(refused, tmp_path: Path):
    one, two = pairs(tmp_path / "one", ("a", "b")), pairs(tmp_path / "two", ("c", "d"), seed=1)
    for kind in ("blur", "sharp"):
        (two / kind / "copy.png").write_bytes((one / kind / "a.png").read_bytes())
    text = refused(use(one, "train"), use(two, "test"))
    assert "is also in data.train" in text and "split by scene" in text


def test_two_folders_may_use_the_same_file_names(cli, tmp_path: Path):
    one, two = pairs(tmp_path / "one"), pairs(tmp_path / "two", seed=1)
    code, _, err = cli("plan", ROOT / "pipeline.yaml", "--target", "host", "--set", use(one, "train"), "--set", use(two, "test"))
    assert code == 0, err
