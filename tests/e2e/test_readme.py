"""What the README says can be typed is typed, beside a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest
from skimage import data

from tests.e2e.conftest import ROOT, pipeline
from tests.test_recipes import readme_commands

pytestmark = pytest.mark.slow

ELSEWHERE = {"run", "search", "bench", "ingest"}
"""Verbs that train, or need a board: they have tests of their own."""

PAIRS, KEPT = "500", "20260301-120003-jetson-xavier"
"""The README's number of pairs, and the run that its commands name."""


@pytest.fixture
def home(short_run: tuple[Path, dict], tmp_path: Path) -> Path:
    """A folder as the README takes it: the pipeline with its run, photographs, pairs, and the shipped weights."""
    folder = shutil.copytree(short_run[0], tmp_path / "home", symlinks=True)
    (folder / "weights").symlink_to(ROOT / "weights")
    sharp = data.coffee()[:128, :160, ::-1]
    for name, image in (("photos/a.png", sharp), ("my/pairs/sharp/a.png", sharp), ("my/pairs/blur/a.png", cv2.blur(sharp, (5, 5)))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)
    return folder


def test_every_command_that_needs_no_training_and_no_board_runs_as_written(home: Path):
    run = (home / ".pipeline" / "runs" / "latest").resolve().name
    typed = [words for words in readme_commands() if words[0] not in ELSEWHERE]
    assert len(typed) >= 15
    for words in typed:
        done = pipeline(*({PAIRS: "3", KEPT: run}.get(word, word) for word in words), cwd=home)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    for made in ("restored/a.png", "restored-int8/a.png", "my-board.yaml", "report.html", "train.lmdb", "pairs"):
        assert (home / made).exists(), made
