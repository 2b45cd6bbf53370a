from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.bundle import write_manifest
from eval.bundle import Bundle
from pipeline.contract import StageResult
from pipeline.store import hash_path
from pipeline.target import Target
from tests.compile.conftest import compile_stage

Bench = Callable[..., subprocess.CompletedProcess[str]]

TRTEXEC = '''#!{python}
"""Stands for trtexec: an "engine" is its ONNX file, run by ONNX Runtime; every flag must be one that 8.5 knows."""
import json, shutil, sys
import numpy as np, onnxruntime
from compile.tensorrt.flags import VERSIONS
flags = dict(f.removeprefix("--").partition("=")[::2] for f in sys.argv[1:])
unknown = set(flags) - VERSIONS[8].flags
if unknown: sys.exit(f"unknown option {{unknown}}")
if "saveEngine" in flags:
    shutil.copy(flags["onnx"], flags["saveEngine"])
if "loadInputs" in flags:
    session = onnxruntime.InferenceSession(flags["loadEngine"], providers=["CPUExecutionProvider"])
    name, path = flags["loadInputs"].split(":")
    x = np.fromfile(path, np.float32).reshape(session.get_inputs()[0].shape)
    y = session.run(None, {{name: x}})[0] + np.float32({error})
    json.dump([{{"name": "restored", "dimensions": "1x3x", "values": y.ravel().tolist()}}], open(flags["exportOutput"], "w"))
if "exportTimes" in flags:
    json.dump([{{"latencyMs": 2.0 + k}} for k in range(int(flags["iterations"]))], open(flags["exportTimes"], "w"))
'''


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture
def bench(copy: Path) -> Bench:
    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(copy / "bench.py"), *args]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, cwd="/")

    return run


@pytest.fixture
def trtexec(tmp_path: Path) -> Callable[[float], dict[str, str]]:
    def make(error: float) -> dict[str, str]:
        path = tmp_path / "trtexec"
        path.write_text(TRTEXEC.format(python=sys.executable, error=error))
        path.chmod(0o755)
        return {"TRTEXEC": str(path), "PYTHONPATH": str(Path(__file__).parents[2])}

    return make


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
        assert artifact.golden.psnr_at_least == {"fp32": 60, "fp16": 45, "int8": 40}[artifact.precision]


def test_sha256sum_agrees_with_the_manifest(copy: Path):
    subprocess.run(["sha256sum", "-c", "--quiet", "--strict", "MANIFEST.sha256"], cwd=copy, check=True)
    listed = {line.partition("  ")[2] for line in (copy / "MANIFEST.sha256").read_text().splitlines()}
    assert listed == {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()} - {"MANIFEST.sha256"}


def test_the_golden_files_are_the_network_s(bundle: Path):
    opened = Bundle.open(bundle)
    for artifact in opened.facts.artifacts:
        lq = np.load(bundle / artifact.golden.input)
        want = np.load(bundle / artifact.golden.expected)
        assert lq.dtype == np.uint8
        assert lq.shape == want.shape == (1, 3, artifact.height or 96, artifact.width or 96)
        with opened.session(artifact.name) as session:
            got = session.run(lq.astype(np.float32) / np.float32(255))
        assert np.abs(got - want).max() < 0.02
        assert np.abs(want - lq / 255).max() > 0.02


def test_the_same_inputs_give_the_same_bytes_whatever_a_killed_run_left(bundle: Path, model_folder: Path, jetson: Target, tmp_path: Path):
    for left in ("bundle/artifacts/half.so", "candidates/tvm-fp32/tvm-fp32-carmel.so"):
        (tmp_path / "again" / left).parent.mkdir(parents=True)
        (tmp_path / "again" / left).write_bytes(b"half")
    again = compile_stage(model_folder, jetson, tmp_path / "again").outputs["bundle"].path
    if Bundle.open(again).facts.host == Bundle.open(bundle).facts.host:  # which depends on a measurement
        assert hash_path(again) == hash_path(bundle)


def test_the_readme_is_ten_lines(bundle: Path):
    text = (bundle / "README.txt").read_text()
    assert text.count("\n") <= 10
    assert "sh build_engine.sh" in text
    assert "bench.py --verify" in text


def test_the_host_s_artifact_verifies_and_is_timed(copy: Path, bench: Bench, compiled: StageResult):
    host = Bundle.open(copy).facts.host
    done = bench("--artifact", host, "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"PASS {host}: ")
    done = bench("--artifact", host, "--seconds", "0.05", "--count", "12", "--threads", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads((copy / "result.json").read_text())
    assert result["latency"]["count"] >= 12
    assert 0 < result["latency"]["p50_ms"] <= result["latency"]["p90_ms"] <= result["latency"]["p99_ms"]
    assert result["artifact_sha256"] == Bundle.open(copy).artifact(host).sha256
    assert {"machine", "cpu", "python"} <= set(result["host"])
    assert (result["height"], result["width"], result["threads"]) == (96, 96, 1)


def test_the_tvm_artifact_runs_on_the_host_it_was_built_for(model_folder: Path, tmp_path: Path):
    from pipeline.target import load_target

    host = load_target("host")
    only_tvm = host.model_copy(update={"backends": tuple(b for b in host.backends if b.use == "tvm")})
    made = compile_stage(model_folder, only_tvm, tmp_path / "work").outputs["bundle"].path
    done = subprocess.run([sys.executable, str(made / "bench.py"), "--verify"], capture_output=True, text=True)
    assert done.stdout.startswith("PASS tvm-int8: "), done.stderr


def test_engines_are_built_verified_and_timed_on_the_board(copy: Path, bench: Bench, trtexec: Callable[[float], dict[str, str]]):
    env = trtexec(0.0)
    done = subprocess.run(["sh", str(copy / "build_engine.sh")], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    assert (copy / "artifacts/tensorrt-int8.engine").exists()
    assert not (copy / "artifacts/tensorrt-fp16.engine").exists()
    done = bench("--seconds", "1", "--count", "21", **env)
    assert done.returncode == 0, done.stderr
    result = json.loads((copy / "result.json").read_text())
    assert (result["artifact"], result["latency"]["p50_ms"]) == ("tensorrt-int8", 12.0)
    assert (result["height"], result["width"]) == (184, 320)
    done = subprocess.run(["sh", str(copy / "build_engine.sh"), "none"], capture_output=True, text=True, env={**os.environ, **env})
    assert (done.returncode, done.stderr) == (2, "error: no artifact 'none'; there are: tensorrt-int8, tensorrt-fp16\n")


@pytest.mark.parametrize("error", ["0.1", "np.nan"])
def test_a_wrong_engine_fails_and_is_not_timed(copy: Path, bench: Bench, trtexec: Callable[[str], dict[str, str]], error: str):
    env = trtexec(error)
    subprocess.run(["sh", str(copy / "build_engine.sh")], check=True, env={**os.environ, **env})
    done = bench(**env)
    assert (done.returncode, done.stdout[:19]) == (1, "FAIL tensorrt-int8:")
    assert not (copy / "result.json").exists()


def test_a_script_without_trtexec_says_so(copy: Path):
    env = {**os.environ, "TRTEXEC": "/nowhere/trtexec"}
    done = subprocess.run(["sh", str(copy / "build_engine.sh")], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (2, "error: no trtexec at /nowhere/trtexec: set TRTEXEC to its path\n")


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
    done = bench("--verify")
    assert (done.returncode, done.stderr) == (2, f"error: {text}\n")


def test_what_cannot_run_is_one_clear_line(bench: Bench):
    assert "error: no artifact 'nope' in this bundle; there are: " in bench("--artifact", "nope").stderr
    assert bench("--verify", TRTEXEC="/nowhere").stderr.startswith("error: trtexec is not at /nowhere: install TensorRT")
    assert bench("--verify", TRTEXEC=sys.executable).stderr.endswith("is not built yet: run ./build_engine.sh on this device first\n")
    assert "was built for aarch64 and this machine is" in bench("--artifact", "tvm-fp32", "--verify").stderr
