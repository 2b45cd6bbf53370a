"""What runs on the board, run here with a synthetic trtexec and a synthetic CUDA driver: no engine is built, no GPU is used."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from compile.tensorrt import BACKEND, build_engine, session, trt_engine
from compile.tensorrt.script import DEVICE_FILES, build_script
from eval.session import BuildRequest
from pipeline.store import hash_file
from pipeline.target import Target
from tests.compile.test_tensorrt import FLAGS, LISTED

HERE = Path(__file__).parent
VERSIONS = {"8.2.1": "v8201", "8.5.2": "v8502", "10.3.0": "v100300", "11.4.0": "v110400"}


@dataclass
class Board:
    """A bundle folder on a synthetic board."""

    bundle: Path
    env: dict[str, str]

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        everything = {**os.environ, **self.env, **env}
        return subprocess.run(command, capture_output=True, text=True, env=everything, cwd="/")

    def sh(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("sh", str(self.bundle / "build_engine.sh"), *arguments, **env)

    def py(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, str(self.bundle / "build_engine.py"), *arguments, **env)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "synthetic_cuda.c")], check=True)
    return folder


def write_bundle(folder: Path, model: Path, target: Target, version: str) -> Path:
    """Artifacts, scripts, bundle.json and manifest, as a bundle has them."""
    backends = tuple(b.model_copy(update={"version": version}) if b.use == "tensorrt" else b for b in target.backends)
    target = target.model_copy(update={"backends": backends})
    artifacts = []
    for precision in ("fp16", "int8"):
        built = BACKEND.build(BuildRequest(model, precision, 96, 128, target, folder / "artifacts"))
        artifacts.append({"name": f"tensorrt-{precision}", "facts": dict(built.facts)})
    (folder / "bundle.json").write_text(json.dumps({"artifacts": artifacts, "chosen": "tensorrt-int8"}))
    for file in DEVICE_FILES:
        shutil.copyfile(file, folder / file.name)
    script = build_script({a["name"]: a["facts"] for a in artifacts}, "tensorrt-int8")
    (folder / "build_engine.sh").write_text(script)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    (folder / "MANIFEST.sha256").write_text("".join(f"{hash_file(p)}  {p.relative_to(folder)}\n" for p in files))
    return folder


def make_board(folder: Path, model: Path, target: Target, driver: Path, version: str) -> Board:
    trtexec = folder / "trtexec"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "synthetic_trtexec.sh", trtexec)
    trtexec.chmod(0o755)
    flags = " ".join(sorted(FLAGS[LISTED[version]]))
    env = {"TRTEXEC": str(trtexec), "LD_LIBRARY_PATH": str(driver), "SYNTHETIC_FLAGS": flags, "SYNTHETIC_VERSION": VERSIONS[version]}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return Board(write_bundle(folder / "bundle", model, target, version), env)


@pytest.fixture(scope="module")
def fresh(model_folder: Path, jetson: Target, driver: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    return make_board(tmp_path_factory.mktemp("fresh") / "board", model_folder, jetson, driver, "8.5.2")


@pytest.fixture
def board(fresh: Board, tmp_path: Path) -> Board:
    shutil.copytree(fresh.bundle, tmp_path / "board/bundle")
    return Board(tmp_path / "board/bundle", fresh.env)


@pytest.fixture
def built(board: Board) -> Board:
    done = board.sh()
    assert done.returncode == 0, done.stderr
    return board


def engine_of(board: Board) -> Path:
    return board.bundle / "artifacts/tensorrt-int8.engine"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_script_gives_each_trtexec_flags_that_it_has(version: str, model_folder: Path, jetson: Target, driver: Path, tmp_path: Path):
    board = make_board(tmp_path / "board", model_folder, jetson, driver, version)
    done = board.sh("tensorrt-int8", "tensorrt-fp16")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("&&&& PASSED") == 2
    for precision in ("int8", "fp16"):
        record = json.loads((board.bundle / f"artifacts/tensorrt-{precision}.engine.json").read_text())
        assert record["board"]["tensorrt"] == version
        assert record["engine_sha256"] == hash_file(board.bundle / f"artifacts/tensorrt-{precision}.engine")


def test_a_build_leaves_engine_record_and_timings(built: Board):
    record = json.loads(engine_of(built).with_name("tensorrt-int8.engine.json").read_text())
    facts = {"gpu": "Xavier", "compute_capability": "7.2", "cuda": "11.4", "tensorrt": "8.5.2"}
    assert facts.items() <= record["board"].items()
    assert record["onnx_sha256"] == hash_file(built.bundle / "artifacts/tensorrt-int8.onnx")
    assert (record["built_by"], record["schema"]) == ("trtexec", 1)
    assert record["settings"]["precisions"] == ["FP16", "INT8"]
    caches = list((built.bundle.parent / "tensorrt-timing").iterdir())
    assert [c.name for c in caches] == ["Xavier-sm7.2-trt8.5.2.cache"]
    assert not (built.bundle / "artifacts/tensorrt-fp16.engine").exists()  # only the chosen one, unless asked


def test_an_engine_that_fits_is_not_built_again_but_timings_are_used_again(built: Board):
    again = built.sh()
    assert again.returncode == 0
    assert again.stdout == "tensorrt-int8: the engine here fits this board; --force builds it again\n"
    assert built.sh("--force", "tensorrt-int8").returncode == 0
    cache = built.bundle.parent / "tensorrt-timing/Xavier-sm7.2-trt8.5.2.cache"
    assert cache.read_text() == "synthetic timings\n" * 2


def stale(board: Board, **env: str) -> str:
    done = board.py("--check", "tensorrt-int8", **env)
    assert done.returncode == 3, done.stderr
    assert done.stdout.endswith(": build it on this board with ./build_engine.sh tensorrt-int8\n")
    return done.stdout.split(":")[0]


def test_an_engine_that_fits_passes_the_check(built: Board):
    done = built.py("--check", "tensorrt-int8")
    assert (done.returncode, done.stdout) == (0, "tensorrt-int8: the engine fits this board\n")


def test_a_stale_or_foreign_engine_is_refused_in_words(built: Board):
    assert "was built for TensorRT 8.5.2, and here it is 8.4.1" in stale(built, SYNTHETIC_VERSION="v8401")
    assert "was built for the GPU Xavier, and here it is Orin" in stale(built, SYNTHETIC_GPU="Orin")
    onnx = built.bundle / "artifacts/tensorrt-int8.onnx"
    onnx.write_bytes(onnx.read_bytes() + b" ")
    assert "was built from another tensorrt-int8.onnx" in stale(built)
    engine_of(built).write_bytes(b"another")
    assert "is damaged, or not the one that was recorded" in stale(built)
    engine_of(built).with_name("tensorrt-int8.engine.json").unlink()
    assert "has no record of what it was built with" in stale(built)
    engine_of(built).unlink()
    assert "is not built yet" in stale(built)


def test_other_settings_make_an_engine_stale(built: Board):
    bundle = json.loads((built.bundle / "bundle.json").read_text())
    bundle["artifacts"][1]["facts"]["builder"]["workspace_mib"] = 99
    (built.bundle / "bundle.json").write_text(json.dumps(bundle))
    assert "was built with other settings" in stale(built)


def test_another_tensorrt_is_refused_before_it_builds(board: Board):
    done = board.sh(SYNTHETIC_VERSION="v100300")
    assert done.returncode == 2
    assert "error: this was written for TensorRT 8.5.2, and trtexec has 10.3.0: compile for this board's target" in done.stderr
    assert not engine_of(board).exists()


def test_a_build_that_fails_leaves_no_record(board: Board):
    done = board.sh(SYNTHETIC_FAILS="yes")
    assert done.returncode == 1
    assert "Could not find any implementation" in done.stdout
    assert "is not built yet" in stale(board)


def test_what_a_user_can_get_wrong(board: Board):
    assert "error: no artifact 'x'; there are: tensorrt-fp16, tensorrt-int8" in board.sh("x").stderr
    assert "error: no trtexec at /nowhere" in board.sh(TRTEXEC="/nowhere").stderr
    assert "no artifact 'x' to build an engine of; there are: tensorrt-int8, tensorrt-fp16" in board.py("--check", "x").stderr
    assert "error: no NVIDIA driver here" in board.sh(LD_LIBRARY_PATH="").stderr
    assert "this user may not use the GPU; try sudo" in board.sh(SYNTHETIC_REFUSES="yes").stderr
    onnx = board.bundle / "artifacts/tensorrt-int8.onnx"
    onnx.write_bytes(b"damaged")
    assert board.sh().returncode != 0
    assert not engine_of(board).exists()
    (board.bundle / "bundle.json").write_text("{")
    assert "bundle.json is missing or damaged" in board.py("--check", "x").stderr


def test_without_tensorrt_the_python_builder_says_so(board: Board):
    done = board.py("tensorrt-int8")
    assert done.returncode == 2
    what = "error: this was written for TensorRT 8.5.2, and python has none: compile for this board's target, or give its version in"
    assert done.stderr == f"{what} the target file\n"


def test_buffers_carry_arrays_to_the_driver_and_back(driver: Path):
    code = """if True:
        import numpy as np
        from compile.tensorrt.build_engine import Cuda
        from compile.tensorrt.trt_engine import Buffer
        cuda = Cuda()
        cuda.make_current()
        x = np.random.default_rng(0).random((1, 3, 5, 7), np.float32)
        buffer, y = Buffer(cuda, x.nbytes), np.zeros_like(x)
        buffer.write(x)
        buffer.read(y)
        assert np.array_equal(x, y) and y.any()
        try:
            buffer.write(x[:, :2])
        except ValueError as e:
            print(e)
        buffer.free()
        buffer.free()
        print(cuda.facts())"""
    env = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=HERE.parent.parent)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("an array of 280 bytes for a buffer of 420")
    assert second == str({"gpu": "Xavier", "compute_capability": "7.2", "cuda": "11.4"})


@pytest.mark.parametrize("file", DEVICE_FILES, ids=lambda p: p.name)
def test_the_scripts_keep_to_python_3_6_and_what_a_board_has(file: Path):
    vermin = Path(sys.executable).parent / "vermin"
    done = subprocess.run([vermin, "-t=3.6-", "--violations", "--no-tips", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    nodes = list(ast.walk(ast.parse(file.read_text(), feature_version=(3, 6))))
    roots = {a.name.partition(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
    roots |= {str(n.module).partition(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "tensorrt", "trt_engine"}


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_shell_script_parses(shell: str, board: Board):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}: apt-get install {shell}")
    done = subprocess.run([shell, "-n", board.bundle / "build_engine.sh"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_artifact_to_build_is_no_script():
    assert build_script({"onnxruntime-int8": {}}, "onnxruntime-int8") == ""
    only = build_script({"a": {"build_flags": ["--onnx=x y"], "tensorrt": "10.3"}}, "b")
    assert "set -- a\n" in only
    assert 'a) "$TRTEXEC" \'--onnx=x y\' "--timingCacheFile=$cache" ;;' in only


@pytest.mark.parametrize(
    ("given", "release"), [("8.5.2.2", "8.5.2"), ("v8502", "8.5.2"), ("v100300", "10.3.0"), ("v101303", "10.13.3"), ("", "")]
)
def test_releases(given: str, release: str):
    assert build_engine.release_of(given) == release


def test_l4t(tmp_path: Path):
    line = "# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref, EABI: aarch64, DATE: Tue Jan 24 23:38:33 UTC 2023"
    assert build_engine.l4t_of(line) == "35.2.1"
    assert build_engine.l4t_of("something else") == ""


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_here_there_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch):
    assert session.missing_here("8.5.2", "sm_72") == "the Python package tensorrt is not installed"
    monkeypatch.setattr(session.importlib.util, "find_spec", lambda name: object())
    assert "no NVIDIA driver here" in session.missing_here("8.5.2", "sm_72")


def test_an_array_must_fit_its_buffer():
    buffer = trt_engine.Buffer.__new__(trt_engine.Buffer)
    buffer.size = 8
    with pytest.raises(ValueError, match="4 bytes for a buffer of 8"):
        buffer._fitting(np.zeros(1, np.float32))
