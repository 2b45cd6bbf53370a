from __future__ import annotations

import json
import platform
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.candidates import Plan, build
from compile.tvm.runner import build_runner, write_runner
from eval.quality import to_batch
from eval.session import Built, open_session
from eval.tiling import restore_tiled, tile_plan
from pipeline.target import load_target
from tests.compile.networks import GATED, Photos, write_model_folder

Runner = Callable[..., subprocess.CompletedProcess[str]]


def built_for(model: Path, workdir: Path, precision: str, target: str = "host") -> Built:
    made = build(Plan("tvm", precision, for_host=target == "host"), model, load_target(target), workdir, 96)
    assert made.built is not None, made.reason
    return made.built


@pytest.fixture(scope="session")
def gated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("gated") / "folder", GATED)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runner") / "deblur-runner"
    build_runner(out, platform.machine())
    return out


@pytest.fixture
def runner(program: Path) -> Runner:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, *map(str, words)], capture_output=True, text=True, errors="replace")

    return run


@pytest.fixture(scope="session")
def int8(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return built_for(model_folder, tmp_path_factory.mktemp("int8"), "int8")


def golden(built: Built, folder: Path) -> tuple[Path, Path]:
    """The middle of a photograph, and what TVM itself makes of it."""
    image = np.ascontiguousarray(Photos()[0].lq[:96, :96])
    np.save(folder / "input.npy", np.ascontiguousarray(image.transpose(2, 0, 1)[None]))
    with open_session(built.path, built.facts, 1) as session:
        np.save(folder / "want.npy", session.run(to_batch(image)))
    return folder / "input.npy", folder / "want.npy"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("network", ["model_folder", "gated_folder"])
def test_it_computes_what_tvm_computes(network: str, precision: str, runner: Runner, tmp_path: Path, request: pytest.FixtureRequest):
    built = built_for(request.getfixturevalue(network), tmp_path / "build", precision)
    lq, want = golden(built, tmp_path)
    for threads in (1, 3):
        done = runner("verify", built.path, lq, want, 200, threads)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"PASS {built.path}: output inf dB from the golden one (at least 200)\n"


def test_another_output_fails(int8: Built, runner: Runner, tmp_path: Path):
    lq, want = golden(int8, tmp_path)
    np.save(want, np.load(want) + np.float32(0.01))
    done = runner("verify", int8.path, lq, want, 41)
    assert (done.returncode, done.stdout) == (1, f"FAIL {int8.path}: output 40.0 dB from the golden one (at least 41)\n")
    np.save(want, np.load(want) * np.float32(np.nan))
    assert runner("verify", int8.path, lq, want, 1).returncode == 1


@pytest.mark.parametrize("blend", [0, 12])
@pytest.mark.parametrize("size", [(200, 170), (96, 96), (50, 61), (1, 1), (97, 101), (40, 300)])
def test_it_restores_as_the_pipeline_does(int8: Built, runner: Runner, tmp_path: Path, size: tuple[int, int], blend: int):
    from skimage import data

    image = np.ascontiguousarray(data.chelsea()[: size[0], : size[1]])
    (tmp_path / "in.ppm").write_bytes(b"P6\n# a comment\n%d %d\n255\n" % size[::-1] + image.tobytes())
    done = runner("restore", int8.path, tmp_path / "in.ppm", tmp_path / "out.ppm", 12, blend, 8, 2)
    assert (done.returncode, done.stderr) == (0, "")
    with open_session(int8.path, int8.facts, 1) as session:
        want = restore_tiled(image, session.run, tile_plan(*size, 96, 12, 8, blend))
    assert (tmp_path / "out.ppm").read_bytes() == b"P6\n%d %d\n255\n" % size[::-1] + want.tobytes()


@pytest.mark.slow
def test_a_4k_frame_takes_less_than_a_gibibyte(int8: Built, program: Path, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), np.uint8)
    (tmp_path / "in.ppm").write_bytes(b"P6\n3840 2160\n255\n" + noise.tobytes())
    words, highest = [program, "restore", int8.path, tmp_path / "in.ppm", tmp_path / "out.ppm", "12", "12", "8", "1"], 0
    with subprocess.Popen(words) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            highest = max(highest, *(int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM")), 0)
            time.sleep(0.01)
    assert process.returncode == 0
    assert (tmp_path / "out.ppm").stat().st_size == (tmp_path / "in.ppm").stat().st_size
    assert 2 * noise.nbytes < highest < 2**28  # the frame, twice; 1.6 thousand tiles leave nothing behind


def test_it_times_itself(int8: Built, runner: Runner):
    found = json.loads(runner("time", int8.path, 0.05, 12, 1).stdout)
    assert found["count"] >= 12 and 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert (found["height"], found["width"]) == (96, 96)


def test_what_it_cannot_do_is_one_clear_line(int8: Built, runner: Runner, tmp_path: Path):
    text, short = tmp_path / "text", tmp_path / "short.npy"
    text.write_text("nothing\n")
    np.save(short, np.zeros(7, np.float32))
    lq, want = golden(int8, tmp_path)
    spoilt = tmp_path / "spoilt.so"
    content = int8.path.read_bytes()
    assert content.count(b"vm.builtin.alloc_tensor") == 1
    spoilt.write_bytes(content.replace(b"vm.builtin.alloc_tensor", b"vm.builtin.alloc_other_"))
    cases = {
        ("verify", tmp_path / "nowhere.so", lq, want, 40): "nowhere.so cannot be read (No such file or directory)",
        ("verify", shutil.which("true"), lq, want, 40): "true is no library that TVM made",
        ("verify", text, lq, want, 40): "text is no shared library",
        ("verify", int8.path, short, want, 40): "short.npy is not of the network's size",
        ("verify", int8.path, text, want, 40): "text is no NumPy array",
        ("restore", int8.path, text, tmp_path / "out", 12, 0, 8): "text is no PPM image (P6, 8 bits)",
        ("restore", int8.path, tmp_path / "nowhere", tmp_path / "out", 12, 0, 8): "nowhere cannot be read",
        ("restore", int8.path, text, tmp_path / "out", 12, -2, 8): "BLEND is -2: give the artifact's blend from bundle.json",
        ("restore", int8.path, text, tmp_path / "out", 12, 8): "usage: deblur-runner --verify",
        ("verify", int8.path, lq, want, 40, 1000): "THREADS is 1000: give 1 to 256, or 0 for all cores",
        ("verify", spoilt, lq, want, 40): "the library calls 'vm.builtin.alloc_other_', which this runner has not: run it with TVM",
        (): "usage: deblur-runner --verify",
        ("verify",): "usage: deblur-runner --verify",
    }
    for words, message in cases.items():
        done = runner(*words)
        assert done.returncode == 2 and message in done.stderr, (words, done)
        assert done.stdout == ""


def test_damaged_bytecode_never_crashes_it(int8: Built, runner: Runner, tmp_path: Path):
    """Every byte of the head of the bytecode is spoilt in turn: it is refused in words, or does not matter."""
    content = int8.path.read_bytes()
    at = content.index(b"relax.VMExecutable")
    lq, want = golden(int8, tmp_path)
    for k in range(at + 18, at + 218, 7):
        spoilt = tmp_path / "spoilt.so"
        spoilt.write_bytes(content[:k] + bytes([content[k] ^ 0xFF]) + content[k + 1 :])
        done = runner("verify", spoilt, lq, want, 40)
        assert done.returncode in (0, 2), (k - at, done)
        assert done.returncode == 0 or done.stderr.startswith("error: ")


@pytest.mark.parametrize("field", [16, 18, 32, 54, 56])
def test_a_damaged_head_is_refused(int8: Built, runner: Runner, tmp_path: Path, field: int):
    """The file's kind, its machine, the place, size and number of its program headers."""
    lq, want = golden(int8, tmp_path)
    spoilt, content = tmp_path / "spoilt.so", bytearray(int8.path.read_bytes())
    content[field] ^= 0xFF
    spoilt.write_bytes(content)
    done = runner("verify", spoilt, lq, want, 40)
    assert (done.returncode, done.stderr[:7]) == (2, "error: ")
    spoilt.write_bytes(int8.path.read_bytes()[: int8.path.stat().st_size // 2])
    assert runner("verify", spoilt, lq, want, 40).returncode == 2


def test_a_library_for_another_machine_is_refused(runner: Runner, int8: Built, tmp_path: Path):
    lq, want = golden(int8, tmp_path)
    other, content = tmp_path / "other.so", bytearray(int8.path.read_bytes())
    content[18] ^= 62 ^ 183  # x86-64 becomes aarch64, and the other way round
    other.write_bytes(content)
    assert "other.so was built for another machine than this one" in runner("verify", other, lq, want, 40).stderr


def test_the_program_is_small_reproducible_and_needs_no_c_library(program: Path, tmp_path: Path):
    relative = write_runner({"mtriple": f"{platform.machine()}-linux-gnu"}, tmp_path)
    assert relative == f"runner/{platform.machine()}/deblur-runner"
    assert (tmp_path / relative).read_bytes() == program.read_bytes()
    assert program.stat().st_size < 300_000
    assert write_runner({"mtriple": f"{platform.machine()}-linux-android"}, tmp_path) == relative
    content = program.read_bytes()
    place, count = struct.unpack_from("<Q", content, 32)[0], struct.unpack_from("<H", content, 56)[0]
    parts = {struct.unpack_from("<I", content, place + 56 * k)[0] for k in range(count)}
    assert 1 in parts and not parts & {2, 3}  # LOAD; neither DYNAMIC nor INTERP: the kernel alone starts it


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_on_an_emulated_board(model_folder: Path, int8: Built, tmp_path: Path, precision: str):
    """fp32 for Linux and int8 for Android: one program runs both."""
    emulator = shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("needs qemu-user: apt-get install qemu-user")
    board = built_for(model_folder, tmp_path / "build", precision, "android-arm64" if precision == "int8" else "raspberry-pi-5")
    here = int8 if precision == "int8" else built_for(model_folder, tmp_path / "here", "fp32")
    lq, want = golden(here, tmp_path)
    program = tmp_path / write_runner(board.facts, tmp_path)
    command = [emulator, "-cpu", "cortex-a76", program, "verify", board.path, lq, want, "50", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("PASS ")
