from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.onnxruntime.backend import OnnxSession, onnxruntime_facts
from eval.memory import memory_measurement, peak_above
from eval.receptive import Receptive, receptive_field
from eval.seams import seam_measurements, seam_note, seams_of, whole_plan
from eval.session import BuildRequest, load_backend, open_session
from eval.tiling import Overlap, overlap_for, restore_tiled, roomy_tile, tile_plan
from models.export import fix_size
from pipeline.target import load_target
from quantize.artifact import ModelFolder
from tests.compile.networks import GATED, SMALL, write_model_folder
from tests.eval.model_example import photo, small_student, write_bundle


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A student without squeeze-and-excite, in float and int8."""
    return ModelFolder(write_model_folder(tmp_path_factory.mktemp("seams") / "plain", SMALL))


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    return ModelFolder(write_model_folder(tmp_path_factory.mktemp("seams") / "gated", GATED, int8=False))


def files(folder):
    return {"fp32": folder.float, "int8": folder.qdq("u8")}


def loud(run):
    """What the network changes, as waves so steep that a difference of 0.01 levels moves some pixels by two."""
    return lambda lq: 0.5 + 0.5 * np.sin(np.float32(200) * (run(lq) - lq))


@pytest.fixture(scope="module")
def engines(plain, tmp_path_factory):
    """Per precision: tile side, overlap, an engine of that fixed size, and one of any size, both loud."""
    found = {}
    for precision, file in files(plain).items():
        receptive = receptive_field(file, plain.size_multiple)
        side = roomy_tile(receptive, 1, plain.size_multiple)
        path = tmp_path_factory.mktemp(precision) / "fixed.onnx"
        fix_size(file, path, side, side)
        fixed = open_session(path, {**onnxruntime_facts(precision), "height": side, "width": side})
        free = OnnxSession(file)
        found[precision] = side, overlap_for(receptive, side), loud(fixed.run), loud(free.run)
    return found


def test_int8_sees_as_far_as_float(plain):
    assert len({receptive_field(file, plain.size_multiple) for file in files(plain).values()}) == 1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 451))
def test_a_fixed_engine_in_tiles_gives_what_the_whole_image_gives(engines, precision, height, width):
    side, overlap, fixed, free = engines[precision]
    assert overlap.why == ""
    found = seams_of(photo(height, width), fixed, (side, side), overlap, 8, free)
    assert found.largest <= 1
    assert found.share == 0
    assert found.tiles == 1 or max(height, width) > side


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_quarter_of_the_halo_is_too_little(engines, precision):
    side, overlap, fixed, free = engines[precision]
    assert seams_of(photo(300, 451), fixed, (side, side), Overlap(overlap.halo // 4, 0), 8, free).largest > 1


@pytest.mark.parametrize(("name", "precision"), [("litert", "fp32"), ("openvino", "fp32")])
def test_other_engines_of_fixed_size(plain, name, precision, tmp_path):
    backend = load_backend(name)
    if backend.missing():
        pytest.skip(f"needs {name}: {backend.missing()}")
    receptive = receptive_field(plain.float, plain.size_multiple)
    side, image = roomy_tile(receptive, 1, 8), photo(237, 315)
    overlap, plan = overlap_for(receptive, side), whole_plan(237, 315, (side, side), 8)
    runs = []
    for height, width in ((side, side), (plan.tile_height, plan.tile_width)):
        request = BuildRequest(plain.path, precision, height, width, load_target("host"), tmp_path / f"{height}", for_host=True)
        built = backend.build(request)
        runs.append(backend.open(built.path, built.facts).run)
    assert seams_of(image, runs[0], (side, side), overlap, 8, runs[1]).largest <= 1


def test_a_network_without_global_operations_is_said_to_be_equal(plain):
    receptive = receptive_field(plain.float, 8)
    side = roomy_tile(receptive, 1, 8)
    with OnnxSession(plain.float) as session:
        rows = seam_measurements([photo(300, 451), photo(280, 300)], session.run, receptive, (side, side), 8)
    assert [(r.name, r.unit, r.samples, r.evidence.name) for r in rows] == [(n, "LSB", 2, "HOST") for n in ("tile_difference", "tile_step")]
    assert rows[0].conditions["whole_image_operations"] == rows[0].conditions["blend"] == 0
    assert seam_note(rows, receptive).startswith(
        f"tiles of {side}x{side} overlapping by {receptive.halo} pixels a side give what the whole image gives, within 1 LSB: up to "
    )


@pytest.mark.parametrize(("offset", "equal"), [(1, True), (2, False)])
def test_more_than_a_level_is_a_difference_and_not_called_equal(offset, equal):
    """A network that sees one pixel and is another one at the whole image's size."""
    receptive = Receptive(0, (0, 0, 0, 0))
    image = photo(200, 300) // 2
    rows = seam_measurements([image], lambda lq: lq, receptive, (64, 64), 8, lambda lq: lq + np.float32(offset / 255))
    assert rows[0].value == offset
    note = seam_note(rows, receptive)
    assert ("give what the whole image gives, within 1 LSB: up to 1 LSB" in note) == equal
    assert ("differ from the whole image by up to 2 LSB (mean 2.000) on 1 image, though the network sees no further" in note) != equal


def test_global_pooling_is_measured_and_said(gated):
    receptive = receptive_field(gated.float, gated.size_multiple)
    side = roomy_tile(receptive, 1, gated.size_multiple)
    with OnnxSession(gated.float) as session:
        rows = seam_measurements([photo(300, 451)], session.run, receptive, (side, side), gated.size_multiple)
    count = len(receptive.whole)
    assert count > 1
    assert rows[0].conditions["whole_image_operations"] == count
    assert rows[0].conditions["blend"] > 0
    note = seam_note(rows, receptive)
    assert f"differ from the whole image by up to {rows[0].value:.0f} LSB" in note
    assert f"since {count} x GlobalAveragePool draw on the whole image, here on its tile; mixed over" in note


def test_mixing_softens_what_the_statistics_of_tiles_change():
    """A network whose brightness follows the mean of what it sees: the step at a cut is the difference of two means."""

    def run(lq):
        return lq + 0.6 * lq.mean(axis=(2, 3), keepdims=True)

    image = photo(300, 451) // 2
    hard = seams_of(image, run, (96, 96), Overlap(24, 0), 8)
    mixed = seams_of(image, run, (96, 96), Overlap(24, 24), 8)
    assert hard.tiles == mixed.tiles
    assert hard.step > 1
    assert mixed.step < hard.step / 4
    assert mixed.mean <= hard.mean


def test_a_narrower_tile_names_the_narrower_side():
    receptive = Receptive(40, (40, 40, 40, 40))
    rows = seam_measurements([photo(200, 300)], lambda lq: lq, receptive, (64, 128), 8)
    assert rows[0].value == 0
    assert "the network sees 40 pixels far, tiles of 64 overlap by 16" in seam_note(rows, receptive)


def test_tiles_larger_than_an_image_are_its_whole():
    image = photo(40, 50)
    plan = whole_plan(40, 50, (64, 64), 8)
    assert (plan.tile_height, plan.tile_width, len(plan)) == (64, 64, 1)
    assert np.array_equal(restore_tiled(image, lambda lq: lq, plan), restore_tiled(image, lambda lq: lq, tile_plan(40, 50, 64, 8, 8)))


def test_memory_is_what_the_work_takes():
    result, peak = peak_above(lambda: int(np.ones(40_000_000, np.uint8).sum()))
    assert result == 40_000_000
    assert 38e6 < peak < 80e6
    row = memory_measurement(peak, frame="3840x2160")
    assert (row.name, row.unit, row.value) == ("peak_memory", "B", peak)
    assert row.conditions == {"above": "the loaded model", "frame": "3840x2160"}


PROBE = """
import json, sys
from pathlib import Path
import numpy as np
from eval.memory import peak_above
from eval.restorers import open_restorer

def frame():
    levels = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), np.uint8)
    return restorer(levels).shape

with open_restorer(Path(sys.argv[1]), threads=1) as restorer:
    shape, peak = peak_above(frame)
    print(json.dumps({"shape": shape, "peak": peak, "tiles": len(restorer.plan(2160, 3840))}))
"""


@pytest.mark.parametrize("fixed", [(256, 256), (0, 0)], ids=["fixed", "free"])
def test_a_4k_frame_takes_less_than_a_gibibyte_above_the_model(fixed, tmp_path):
    write_bundle(tmp_path / "bundle", small_student(), fixed)
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path / "bundle")], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["shape"] == [2160, 3840, 3]
    assert said["tiles"] > 4
    assert 50e6 < said["peak"] <= 2**30
