from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from compile.bundle import write_manifest
from eval.bundle import Bundle
from eval.tiling import restore_tiled, tile_plan
from pipeline.contract import StageResult
from pipeline.store import hash_file
from pipeline.target import Frame, load_target
from tests.compile.conftest import compile_stage
from tests.compile.networks import Photos
from tests.compile.on_device import Bench, runs_in


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture
def bench(copy: Path) -> Bench:
    return runs_in(copy)


def test_the_host_s_artifact_verifies_and_is_timed(copy: Path, bench: Bench, compiled: StageResult):
    host = Bundle.open(copy).facts.host
    for script in ("run.py", "bench.py"):
        done = bench("--artifact", host, "--verify", script=script)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"PASS {host}: ")
    done = bench("--artifact", host, "--seconds", "0.05", "--count", "12", "--threads", "1", "--warmup", "0")
    assert done.returncode in (0, 3), done.stderr  # 3: another program runs here
    result = json.loads((copy / "result.json").read_text())
    assert result["stable"] == (done.returncode == 0) == (result["unstable_reason"] == "")
    for part, count in (("kernel", 12), ("frame", 5)):
        assert result[part]["count"] == len(result[part]["times_ms"]) >= count
        assert 0 < result[part]["p50_ms"] <= result[part]["p90_ms"] <= result[part]["p99_ms"]
    assert result["frame"]["p50_ms"] > result["kernel"]["p50_ms"]
    artifact = Bundle.open(copy).artifact(host)
    assert (result["schema"], result["verified"], result["artifact"]) == (2, True, host)
    assert (result["artifact_sha256"], result["bundle_sha256"]) == (artifact.sha256, hash_file(copy / "MANIFEST.sha256"))
    assert {"machine", "cpu", "python", "hostname", "runtime", "clocks", "power_mode", "board"} <= set(result["device"])
    asked = {"warmup_s": 0, "min_seconds": 0.05, "min_count": 12, "threads": 1, "frame": [180, 316], "input": [96, 96]}
    assert {k: result["protocol"][k] for k in asked} == asked
    assert result["samples"]["peak_rss_mb"] > 0.1 and result["samples"]["throttled"] == []


def test_images_and_folders_are_restored(copy: Path, bench: Bench, tmp_path: Path):
    host = Bundle.open(copy).facts.host
    image = Photos(1, 130, 201)[0].lq
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), image[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "in/b.jpg"), image[:, :, ::-1])
    done = bench(str(tmp_path / "in"), str(tmp_path / "out"), "--artifact", host, script="run.py")
    assert (done.returncode, done.stdout) == (0, "")
    assert [line.partition(",")[0] for line in done.stderr.splitlines()] == ["a.png: 1 of 2", "b.jpg: 2 of 2"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]
    got = cv2.imread(str(tmp_path / "out/a.png"))[:, :, ::-1].astype(int)
    artifact = Bundle.open(copy).artifact(host)
    with Bundle.open(copy).session(host) as session:
        tile = (session.height or 136, session.width or 208)
        want = restore_tiled(image, session.run, tile_plan(130, 201, tile, artifact.halo, 8, artifact.blend))
    assert np.abs(got - want).max() <= 1 and np.abs(got - image).max() > 4
    assert bench(str(tmp_path / "in"), script="run.py").returncode == 2
    done = bench(str(tmp_path / "nowhere.png"), str(tmp_path / "x.png"), "--artifact", host, script="run.py")
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'nowhere.png'} is not there\n")


def test_the_tvm_artifact_runs_without_tvm(model_folder: Path, tmp_path: Path):
    host = load_target("host")
    only_tvm = host.model_copy(
        update={"backends": tuple(b for b in host.backends if b.use == "tvm"), "frame": Frame(width=200, height=120)}
    )
    made = compile_stage(model_folder, only_tvm, tmp_path / "work").outputs["bundle"].path
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    (tmp_path / "tvm.py").write_text("raise ImportError('there is no TVM on this board')")
    done = subprocess.run([sys.executable, str(made / "run.py"), "--verify"], capture_output=True, text=True, env=env)
    assert done.stdout.startswith("PASS tvm-int8: "), done.stdout + done.stderr
    artifact = Bundle.open(made).artifact()
    words = [made / artifact.runner, "verify", made / artifact.path, made / artifact.golden.input, made / artifact.golden.expected, "40"]
    assert subprocess.run(words, capture_output=True, text=True).stdout.startswith("PASS ")
    timing = ["--seconds", "0", "--count", "9", "--warmup", "0", "--out", tmp_path / "result.json", "--threads", "2"]
    done = subprocess.run([sys.executable, made / "bench.py", *timing], capture_output=True, text=True, env=env)
    assert done.returncode in (0, 3), done.stderr
    assert json.loads((tmp_path / "result.json").read_text())["device"]["runtime"] == "native runner"


def test_another_board_is_refused_unless_forced(copy: Path, bench: Bench):
    facts = json.loads((copy / "bundle.json").read_text())
    name = next(a["name"] for a in facts["artifacts"] if a["role"] == "host")
    for artifact in facts["artifacts"]:
        artifact["role"] = "target"
    facts["recognise"] = {"model": "AGX Xavier"}
    (copy / "bundle.json").write_text(json.dumps(facts))
    write_manifest(copy)
    done = bench("--artifact", name, "--verify", script="run.py")
    assert done.returncode == 1
    assert done.stdout.startswith(
        f"FAIL {name}: this bundle is for NVIDIA Jetson AGX Xavier, JetPack 5.1 (jetson-xavier), and this is another"
    )
    done = bench("--artifact", name, "--seconds", "0", "--count", "1")
    assert (done.returncode, done.stderr[:32]) == (2, "error: this bundle is for NVIDIA")
    assert bench("--artifact", name, "--verify", "--force-board").returncode == 0


def test_a_killed_benchmark_leaves_the_earlier_result(copy: Path):
    host = Bundle.open(copy).facts.host
    (copy / "result.json").write_text("earlier")
    command = [sys.executable, copy / "bench.py", "--artifact", host, "--seconds", "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().startswith("PASS")
    process.kill()
    process.wait()
    assert (copy / "result.json").read_text() == "earlier"
    assert [p.name for p in copy.glob("result.json*")] == ["result.json"]


def spoil_file(copy: Path) -> None:
    with (copy / Bundle.open(copy).artifact().path).open("ab") as f:
        f.write(b"!")


def remove_file(copy: Path) -> None:
    (copy / "golden/input-320x184.npy").unlink()


def remove_manifest(copy: Path) -> None:
    (copy / "MANIFEST.sha256").unlink()


def spoil_facts(copy: Path) -> None:
    (copy / "bundle.json").write_text("{")
    write_manifest(copy)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (spoil_file, "artifacts/tensorrt-int8.onnx differs from MANIFEST.sha256: copy the bundle again"),
        (remove_file, "input-320x184.npy is missing: copy the bundle again"),
        (remove_manifest, "MANIFEST.sha256 is missing or empty: copy the bundle again"),
        (spoil_facts, "bundle.json is missing or damaged: copy the bundle again"),
    ],
)
def test_a_damaged_bundle_is_one_clear_line(copy: Path, bench: Bench, damage: Callable[[Path], None], text: str):
    damage(copy)
    for script in ("run.py", "bench.py"):
        done = bench("--verify", script=script)
        assert (done.returncode, done.stdout, done.stderr) == (1, f"FAIL bundle: {text}\n", "")
    done = bench()
    assert (done.returncode, done.stderr) == (2, f"error: {text}\n")


def test_what_cannot_run_is_one_clear_line(bench: Bench):
    assert "error: no artifact 'nope' in this bundle; there are: " in bench("--artifact", "nope").stderr
    said = bench("--force-board").stderr  # behind a line that says who is waited for, where another benchmark runs
    assert said.endswith("error: artifacts/tensorrt-int8.engine is not built yet: run ./build_engine.sh on this device first\n")
    assert (
        "FAIL tvm-fp32: tvm-fp32 was built for aarch64 and this machine is"
        in bench("--artifact", "tvm-fp32", "--verify", "--force-board").stdout
    )
