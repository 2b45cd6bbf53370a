from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from compile.bundle import FLOAT_PIXELS, golden_image
from compile.card import licences, model_card
from eval.bundle import Bundle, read_golden
from eval.receptive import receptive_field
from eval.tiling import overlap_for
from pipeline.contract import Better, Evidence, Measurement
from pipeline.store import hash_file, hash_path
from pipeline.target import Target
from quantize.artifact import ModelFolder
from tests.compile.conftest import compile_stage
from tests.compile.networks import Photos


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_what_is_in_it(bundle: Path):
    opened = Bundle.open(bundle)
    facts = opened.facts
    assert (facts.chosen, facts.target, facts.network.input) == ("tensorrt-int8", "jetson-xavier", "lq")
    roles = {a.name: a.role for a in facts.artifacts}
    assert roles[facts.chosen] == "target"
    assert roles[facts.host] == "host"
    assert roles["tensorrt-fp16"] == roles["tvm-fp32"] == "unproven"
    assert facts.lineage["model_sha256"]
    for artifact in facts.artifacts:
        assert (bundle / artifact.path).stat().st_size == artifact.bytes
        assert artifact.tile == ((artifact.height, artifact.width) if artifact.height else (184, 320))
        overlap = overlap_for(receptive_field(bundle / artifact.reference, 8), min(artifact.tile))
        assert 0 < artifact.halo < min(artifact.tile) / 2
        assert (artifact.halo, artifact.blend) == (overlap.halo, overlap.blend)
        assert (artifact.runner != "") == (artifact.backend == "tvm")
        assert artifact.golden.psnr_at_least == {"fp32": 60, "fp16": 45, "int8": 40}[artifact.precision]


def test_sha256sum_agrees_with_the_manifest(copy: Path):
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "MANIFEST.sha256"], cwd=copy, check=True)
    listed = {line.partition("  ")[2] for line in (copy / "MANIFEST.sha256").read_text().splitlines()}
    assert listed == {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()} - {"MANIFEST.sha256"}


def test_the_golden_files_are_the_network_s(bundle: Path):
    opened = Bundle.open(bundle)
    for artifact in opened.facts.artifacts:
        lq, want = (read_golden(bundle / name) for name in (artifact.golden.input, artifact.golden.expected))
        assert lq.dtype == np.uint8
        assert lq.shape == want.shape == (1, 3, artifact.height or 96, artifact.width or 96)
        with opened.session(artifact.name) as session:
            got = session.run(lq.astype(np.float32) * np.float32(1 / 255))
        assert np.abs(got - want).max() < 0.02
        assert np.abs(want - lq / 255).max() > 0.02


def test_the_same_inputs_give_the_same_bytes_whatever_a_killed_run_left(bundle: Path, model_folder: Path, jetson: Target, tmp_path: Path):
    for left in ("bundle/artifacts/half.so", "candidates/tvm-fp32/tvm-fp32-carmel.so"):
        (tmp_path / "again" / left).parent.mkdir(parents=True)
        (tmp_path / "again" / left).write_bytes(b"half")
    again = compile_stage(model_folder, jetson, tmp_path / "again").outputs["bundle"].path
    if Bundle.open(again).facts.host == Bundle.open(bundle).facts.host:  # which depends on a measurement
        assert hash_path(again) == hash_path(bundle)


def test_what_is_linked_into_the_runner_is_named_with_its_copyright(bundle: Path):
    facts = Bundle.open(bundle).facts
    assert any(a.runner for a in facts.artifacts)
    assert facts.licences["musl (in the native runner)"] == "MIT"
    assert any(name.startswith("onnxruntime ") for name in facts.licences)
    assert "musl as a whole is licensed under" in (bundle / "runner/COPYRIGHT.musl").read_text(encoding="utf-8")


def test_the_readme_is_short_and_in_order(bundle: Path):
    text = (bundle / "README.md").read_text()
    assert text.count("\n") <= 14
    steps = ["sha256sum -c", "sh build_engine.sh", "run.py --verify", "run.py INPUT OUTPUT", "python3 bench.py"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert "which needs TensorRT, which JetPack brings" in text


def test_a_large_golden_frame_is_one_patch_over_and_over():
    image = np.random.default_rng(0).integers(0, 256, (300, 500, 3), dtype=np.uint8)
    small, large = golden_image(image, 96, 128), golden_image(image, 1088, 1920)
    assert np.array_equal(small, image[102:198, 186:314])
    assert large.shape == (1088, 1920, 3) and large.shape[0] * large.shape[1] > FLOAT_PIXELS
    assert np.array_equal(large[:272, :480], image[14:286, 10:490])
    assert np.array_equal(large[272:], large[:-272]) and np.array_equal(large[:, 480:], large[:, :-480])


def test_the_model_card_says_where_it_comes_from(model_folder: Path, float_folder: Path):
    folder = ModelFolder(model_folder)
    row = Measurement("psnr", 30.5, "dB", Better.HIGHER, 3, Evidence.HOST, {"split": "calibrate"})
    photos = Photos()
    card = model_card(folder, {"calibrate": photos}, [row], ["numpy", "no-such-package"])
    assert card["lineage"]["data"] == {"calibrate": {"sha256": photos.digest(), "pairs": 3}}
    assert card["lineage"]["checkpoint_sha256"] == hash_file(folder.checkpoint)
    assert card["lineage"]["sources"]["float.onnx"] == hash_file(folder.float)
    assert card["scores"][0] | {"value": 30.5, "evidence": "host", "unit": "dB", "samples": 3} == card["scores"][0]
    assert "per" not in card["quantization"] and card["quantization"]["weights"].startswith("int8, symmetric")
    assert [k.split()[0] for k in card["licences"]] == ["numpy"]
    assert "BSD" in next(iter(licences(["numpy"]).values()))
    assert model_card(ModelFolder(float_folder), {}, [], [])["quantization"] == {}
    json.dumps(card)
