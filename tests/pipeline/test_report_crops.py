from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.report import render_html
from pipeline.report.crops import LIMIT, worst_crops
from tests.pipeline.report_example import NAMES, example_report, write_example, write_png


def make_run(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    run_dir = tmp_path / "workspace" / "runs" / "now"
    run_dir.mkdir(parents=True)
    return write_example(run_dir), run_dir


def decode(uri: str) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_rows_are_the_three_worst_images_with_every_stage(tmp_path: Path) -> None:
    report, run_dir = make_run(tmp_path)
    found = worst_crops(report, run_dir)
    assert found.after == "benchmark"
    assert [r.image_db for r in found.rows] == sorted(r.image_db for r in found.rows)
    assert len(found.rows) == 3
    assert {r.name for r in found.rows} < set(NAMES)
    captions = ["blurred", "teach", "distill", "prune", "quantize", "benchmark", "sharp"]
    assert all([t.caption for t in r.tiles] == captions for r in found.rows)
    for row in found.rows:
        decibels = [t.decibel for t in row.tiles]
        assert decibels[-1] is None
        assert decibels[1] > decibels[2] > decibels[0]
        sharp = cv2.imread(str(run_dir / "samples" / "sharp" / f"{row.name}.png"))
        assert np.array_equal(decode(row.tiles[-1].uri), sharp[row.y : row.y + 128, row.x : row.x + 128])


def test_the_window_is_where_the_final_error_is(tmp_path: Path) -> None:
    report, run_dir = make_run(tmp_path)
    broken = run_dir / "stages" / "benchmark" / "samples" / "coffee.png"
    image = cv2.imread(str(run_dir / "samples" / "sharp" / "coffee.png"))
    image[60:180, 50:170] = 255 - image[60:180, 50:170]
    write_png(broken, image)
    row = worst_crops(report, run_dir).rows[0]
    assert row.name == "coffee"
    assert 52 <= row.y <= 60
    assert 42 <= row.x <= 50


def test_images_smaller_than_the_window_are_shown_whole(tmp_path: Path) -> None:
    report, run_dir = make_run(tmp_path)
    row = worst_crops(report, run_dir, side=4096).rows[0]
    assert (row.x, row.y, row.width, row.height) == (0, 0, 192, 192)


def test_a_stage_without_a_picture_leaves_a_hole(tmp_path: Path) -> None:
    report, run_dir = make_run(tmp_path)
    for name in NAMES:
        (run_dir / "stages" / "prune" / "samples" / f"{name}.png").unlink()
    tiles = {t.caption: t for t in worst_crops(report, run_dir).rows[0].tiles}
    assert tiles["prune"].uri == ""
    assert tiles["distill"].uri
    assert '<div class="hole">–</div>' in render_html(report, run_dir)


@pytest.mark.parametrize("damage", [b"", b"not a picture"])
def test_damaged_pictures_are_left_out(tmp_path: Path, damage: bytes) -> None:
    report, run_dir = make_run(tmp_path)
    worst = worst_crops(report, run_dir).rows[0].name
    (run_dir / "stages" / "benchmark" / "samples" / f"{worst}.png").write_bytes(damage)
    assert worst not in {r.name for r in worst_crops(report, run_dir).rows}


def test_a_run_without_pictures_says_so(tmp_path: Path) -> None:
    assert "No stage of this run left restored test images." in render_html(example_report(), tmp_path)


def test_samples_are_found_by_hash_when_the_link_is_gone(tmp_path: Path) -> None:
    report, run_dir = make_run(tmp_path)
    sha = "cd" * 32
    store = run_dir.parent.parent / "store" / "objects" / "cd" / sha
    store.parent.mkdir(parents=True)
    (run_dir / "stages" / "benchmark" / "samples").rename(store)
    report["stages"][-1]["outputs"]["samples"]["sha256"] = sha
    assert worst_crops(report, run_dir).after == "benchmark"


def test_of_many_images_only_those_with_the_lowest_figures_are_decoded(tmp_path: Path) -> None:
    report, run_dir = make_run(tmp_path)
    report["stages"] = report["stages"][:1]
    sharp, out = run_dir / "samples" / "sharp", run_dir / "stages" / "teach" / "samples"
    rng = np.random.default_rng(0)
    values = []
    for folder in (sharp, out):
        for path in folder.iterdir():
            path.unlink()
    for i in range(LIMIT + 20):
        image = np.full((16, 16, 3), 100, np.uint8)
        noisy = (image + rng.integers(1, 3 + i % 17)).astype(np.uint8)
        write_png(sharp / f"{i:03d}.png", image)
        write_png(out / f"{i:03d}.png", noisy)
        values.append(float(10 * np.log10(255**2 / np.mean((noisy.astype(float) - image) ** 2))))
    report["stages"][0]["measurements"][0]["values"] = values
    found = worst_crops(report, run_dir)
    assert (found.looked_at, found.total) == (LIMIT, LIMIT + 20)
    assert [r.image_db for r in found.rows] == pytest.approx(sorted(values)[:3], abs=1e-3)
    assert f"among {LIMIT} of {LIMIT + 20} compared" in render_html(report, run_dir)
