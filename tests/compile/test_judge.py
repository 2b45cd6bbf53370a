"""On which images a candidate is judged, and what is said of one that does not run here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compile.candidates import Attempt, Plan
from compile.child import Runtimes
from compile.judge import Judge, Judged
from compile.pictures import Tiles
from compile.proof import PARITY_TILES
from eval.session import BuildRequest, load_backend
from pipeline.contract import Pair, Verdict
from pipeline.target import load_target
from quantize.artifact import ModelFolder
from tests.compile.networks import Photos

SIDE = 96
STRAYS = "tests.compile.natives.strays"
Judging = Callable[..., Judged]


class Dark(Photos):
    """Photographs of the night."""

    def __getitem__(self, index: int) -> Pair:
        pair = super().__getitem__(index)
        return Pair(pair.lq // 16, pair.gt // 16, pair.name, pair.scene)


@pytest.fixture
def judging(model_folder: Path, tmp_path: Path) -> Judging:
    host = load_target("host")

    def judge(use: str, precision: str, test: Photos | None, runs_here: bool = True) -> Judged:
        built = load_backend(use).build(BuildRequest(model_folder, precision, SIDE, SIDE, host, tmp_path / precision, for_host=True))
        made = Attempt(Plan(use, precision, for_host=True), replace(built, facts={**built.facts, "runs_here": runs_here}))
        with Runtimes(tmp_path / "runtimes") as runtimes:
            return Judge(ModelFolder(model_folder), Photos(2), host, SIDE, 0.01, runtimes, test).judge_one(made, None)

    return judge


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_network_on_test_images_fails_though_it_is_the_same_where_it_is_chosen(judging: Judging, precision: str):
    good, bad = (judging(STRAYS, precision, test) for test in (Photos(2, first=3), Dark(2, first=3)))
    assert good.parity.verdict is Verdict.PASSED, good.parity.reason
    assert "on 2 test tiles" in good.parity.reason
    assert bad.parity.verdict is Verdict.FAILED
    assert good.quality == bad.quality, "by which the choice is made: the test images are no part of it"
    assert good.quality.names == ("crop0", "crop1")


def test_without_test_images_the_tiles_are_of_the_others(judging: Judging):
    rows = judging(STRAYS, "fp32", None).parity.measurements
    assert [(m.name, m.conditions["split"], m.samples) for m in rows] == [("parity_psnr", "calibrate", 2)]


def test_int8_that_does_not_run_here_is_told_from_one_that_did(judging: Judging):
    ran, stood = (judging("onnxruntime", "int8", Photos(1, first=3), here) for here in (True, False))
    assert ran.parity.reason.startswith("scales and integers exact; ") and "stand-in" not in ran.parity.reason
    assert stood.parity.verdict is Verdict.PASSED
    assert stood.parity.reason.startswith("by a stand-in here, its source in ONNX Runtime: scales and integers exact; ")
    assert stood.parity.reason.endswith(", where run.py --verify proves it")
    for judged in (ran, stood):
        told = {"runtime" in m.conditions for m in judged.measurements if m.name.startswith(("parity", "psnr"))}
        assert told == {judged is stood}


def test_tiles_are_the_middles_of_the_first_few():
    photos = Photos(3)
    tiles = Tiles(photos, PARITY_TILES, (64, 80))
    assert len(tiles) == 3 and len(Tiles(photos, 2, (64, 64))) == 2
    assert np.array_equal(tiles[1].lq, photos[1].lq[40:104, 48:128]) and np.array_equal(tiles[1].gt, photos[1].gt[40:104, 48:128])


def test_an_engine_of_another_size_is_tried_and_timed_at_its_own(model_folder: Path, tmp_path: Path):
    """As TensorRT's, which take the target's whole frame."""
    pytest.importorskip("ai_edge_litert", reason='pip install -e ".[litert]"')
    host = load_target("host")
    built = load_backend("litert").build(BuildRequest(model_folder, "int8", 64, 112, host, tmp_path / "build", for_host=True))
    with Runtimes(tmp_path / "runtimes") as runtimes:
        judge = Judge(ModelFolder(model_folder), Photos(2), host, SIDE, 0.01, runtimes, Photos(1, first=3))
        [judged] = judge.judge([Attempt(Plan("litert", "int8", for_host=True), built)])
    assert judged.parity.verdict is Verdict.PASSED, judged.parity.reason
    assert {m.conditions["frame"] for m in judged.measurements if m.name == "latency_p50"} == {"112x64"}
