from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compile.on_device import Bench, runs_in

TRTEXEC = '''#!{python}
"""SYNTHETIC trtexec: an "engine" is its ONNX file, run by ONNX Runtime."""
import json, shutil, sys
if "--help" in sys.argv: sys.exit(print("&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --help"))
import numpy as np, onnxruntime
flags = dict(f.removeprefix("--").partition("=")[::2] for f in sys.argv[1:])
if "saveEngine" in flags:
    shutil.copy(flags["onnx"], flags["saveEngine"])
if "loadInputs" in flags:
    session = onnxruntime.InferenceSession(flags["loadEngine"], providers=["CPUExecutionProvider"])
    name, path = flags["loadInputs"].split(":")
    x = np.fromfile(path, np.float32).reshape(session.get_inputs()[0].shape)
    y = session.run(None, {{name: x}})[0] + np.float32({error})
    json.dump([{{"name": "restored", "dimensions": "1x3x", "values": y.ravel().tolist()}}], open(flags["exportOutput"], "w"))
if "exportTimes" in flags:
    count = int(flags["iterations"])
    json.dump([{{"computeMs": 2 + k / count / 100, "latencyMs": 9.0}} for k in range(count)], open(flags["exportTimes"], "w"))
'''


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


@pytest.fixture
def bench(copy: Path) -> Bench:
    """``bench.py`` on a machine that is not the bundle's board, which must be said."""
    run = runs_in(copy)
    return lambda *args, **env: run("--force-board", *args, **env)


@pytest.fixture
def trtexec(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    def make(error: str) -> dict[str, str]:
        path = tmp_path / "trtexec"
        path.write_text(TRTEXEC.format(python=sys.executable, error=error))
        path.chmod(0o755)
        compiler, here = shutil.which("cc"), Path(__file__).parent
        if compiler is None:
            pytest.skip("needs a C compiler: apt-get install gcc")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", here / "synthetic_cuda.c"], check=True)
        paths = {"LD_LIBRARY_PATH": str(tmp_path), "HOME": str(tmp_path)}
        return {"TRTEXEC": str(path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **paths}

    return make


def test_engines_are_built_verified_and_timed_on_the_board(copy: Path, bench: Bench, trtexec: Callable[[str], dict[str, str]]):
    env = trtexec("0.0")
    done = subprocess.run(["sh", str(copy / "build_engine.sh")], capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    assert (copy / "artifacts/tensorrt-int8.engine").exists()
    assert not (copy / "artifacts/tensorrt-fp16.engine").exists()
    done = bench("--seconds", "1", "--count", "21", **env)
    assert done.returncode == 0, done.stderr
    result = json.loads((copy / "result.json").read_text())
    assert result["artifact"] == "tensorrt-int8"
    assert result["kernel"]["p50_ms"] == pytest.approx(2 + 10 / 21 / 100), "the kernels alone, not the latency"
    assert result["frame"] is None, "trtexec takes no pictures"
    assert result["protocol"]["input"] == [184, 320]
    assert bench("--verify", **env, SYNTHETIC_GPU="Orin").stdout == (
        "FAIL bundle: tensorrt-int8.engine was built for the GPU Xavier, and here it is Orin: build it on this board with "
        "./build_engine.sh tensorrt-int8\n"
    )


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
    assert (done.returncode, done.stderr) == (
        2,
        "error: no trtexec at /nowhere/trtexec: set TRTEXEC to its path, or run python3 build_engine.py\n",
    )
