"""The device scripts under the Pythons that the boards have, with the NumPy of their systems."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.targets.device_path import FOLDER

OLD = {"3.6": "numpy==1.13.3", "3.8": "numpy==1.17.4"}
"""JetPack 4 and 5: Ubuntu 18.04 and 20.04."""

NETWORK = """
import numpy as np
from board import runtimes
class Smooth(runtimes.Called):
    version = "three pixels wide"
    def __init__(self, artifact, bundle, threads): pass
    def run(self, x): return ((np.roll(x, 1, 3) + x + np.roll(x, -1, 3)) / np.float32(3)).astype(np.float32)
runtimes.RUNTIMES["smooth"] = [Smooth]
"""


def found(version: str) -> str:
    """An interpreter of that version: on the search path, or pyenv's; empty when there is none."""
    at = shutil.which(f"python{version}")
    candidates = [*([at] if at else []), *map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))]
    for path in candidates:
        done = subprocess.run([path, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == str(tuple(map(int, version.split(".")))):
            return path
    return ""


@pytest.fixture(scope="module", params=OLD)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = found(request.param)
    if not path:
        pytest.skip(f"needs Python {request.param}: pyenv install {request.param}")
    home = tmp_path_factory.mktemp(f"python{request.param}") / "venv"
    subprocess.run([path, "-m", "venv", home], check=True)
    done = subprocess.run([home / "bin/pip", "install", "-q", "--only-binary=:all:", OLD[request.param]], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs {OLD[request.param]} for Python {request.param}: {done.stderr.strip().splitlines()[-1]}")
    return str(home / "bin/python")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle's scripts around a network that is a few lines of NumPy."""
    import hashlib

    path = tmp_path / "bundle"
    shutil.copytree(FOLDER, path, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "bench.py"):
        text = (path / name).read_text()
        assert text.count("import sys\n") == 1
        (path / name).write_text(text.replace("import sys\n", "import sys\nimport network\n"))
    (path / "network.py").write_text(NETWORK)
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 48, 64), dtype=np.uint8)
    x = image.astype(np.float32) * np.float32(1 / 255)
    np.save(path / "input.npy", image)
    np.save(path / "expected.npy", ((np.roll(x, 1, 3) + x + np.roll(x, -1, 3)) / np.float32(3)).astype(np.float32))
    golden = {"input": "input.npy", "expected": "expected.npy", "psnr_at_least": 90}
    artifact = {"name": "smooth", "backend": "smooth", "precision": "fp32", "role": "target", "sha256": "0", "facts": {}, "height": 48}
    artifact |= {"width": 64, "tile": [48, 64], "halo": 4, "golden": golden}
    facts = {"target": "any", "title": "Any", "chosen": "smooth", "artifacts": [artifact], "frame": {"width": 100, "height": 70}}
    (path / "bundle.json").write_text(json.dumps({**facts, "network": {"input": "lq", "size_multiple": 4}}))
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(path)}\n" for p in files]
    (path / "MANIFEST.sha256").write_text("".join(lines))
    return path


def run(*words: object) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, env={**env, "PYTHONDONTWRITEBYTECODE": "1"})


def test_an_old_python_verifies_times_and_restores(python: str, folder: Path, tmp_path: Path):
    for script in ("run.py", "bench.py"):
        done = run(python, folder / script, "--verify")
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("PASS smooth: "), done.stdout + done.stderr
    done = run(python, folder / "bench.py", "--seconds", 0.1, "--count", 20, "--warmup", 0, "--out", tmp_path / "result.json")
    assert done.returncode in (0, 3), done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["kernel"]["count"] >= 20 and result["frame"]["count"] >= 5
    assert result["device"]["python"].startswith(("3.6", "3.8")) and result["device"]["glibc"]
    image = np.random.default_rng(1).integers(0, 256, (70, 101, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "in.png"), image[:, :, ::-1])
    done = run(python, folder / "run.py", tmp_path / "in.png", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    x = image.astype(np.float32) * np.float32(1 / 255)
    want = np.rint((x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3 * 255)
    got = cv2.imread(str(tmp_path / "out.png"))[:, :, ::-1].astype(int)
    assert np.abs(got[:, 1:-1] - want).max() <= 1


def test_an_old_python_reads_packed_arrays(python: str, tmp_path: Path):
    import io
    import lzma

    content = io.BytesIO()
    np.lib.format.write_array(content, np.arange(12, dtype=np.uint8).reshape(3, 4), version=(1, 0))
    (tmp_path / "a.npy.xz").write_bytes(lzma.compress(content.getvalue()))
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r})\nfrom pathlib import Path\nfrom board.basics import load_array\n"
    done = run(python, "-c", code + f"print(load_array(Path({str(tmp_path / 'a.npy.xz')!r})).tolist())")
    assert done.stdout == "[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]\n", done.stderr
