from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compile.onnxruntime.backend import OnnxSession
from compile.openvino import BACKEND
from compile.openvino.backend import SIZES, OpenVinoSession, check, convolutions_of
from compile.parity import FLOAT_DB, output_psnr
from eval.session import BuildRequest, open_session
from pipeline.errors import StageFailed
from pipeline.machine import cores
from pipeline.target import load_target
from quantize.artifact import ModelFolder
from quantize.folder import write_folder
from tests.compile.networks import SMALL, write_model_folder
from tests.quantize.toys import PATTERNS, quantized, student

openvino = pytest.importorskip("openvino", reason="pip install openvino")


def has_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture
def request_(model_folder: Path, tmp_path: Path) -> BuildRequest:
    return BuildRequest(model_folder, "fp32", 64, 64, load_target("host"), tmp_path / "build")


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, *size), np.float32)


@pytest.mark.parametrize(("precision", "name"), [("fp32", "float.onnx"), ("int8", "qdq_u8.onnx")])
def test_the_artifact_is_the_file_and_takes_any_size(request_: BuildRequest, precision: str, name: str):
    built = BACKEND.build(replace(request_, precision=precision))
    assert built.path.read_bytes() == (request_.model / name).read_bytes()
    with open_session(built.path, built.facts) as session:
        for size in ((64, 64), (72, 104)):
            found, want = session.run(image(*size)), OnnxSession(built.path, optimise=False).run(image(*size))
            assert output_psnr(found, want) > (60 if precision == "fp32" else 40)


def test_fp32_is_what_ran_whatever_the_default_is(request_: BuildRequest):
    built = BACKEND.build(request_)
    assert built.facts["openvino"] == openvino.__version__
    assert set(built.facts["executed"]["Convolution"]) == {"f32"}
    assert built.facts["float_precision"] == "fp32"


def test_bf16_is_the_default_of_a_cpu_that_has_it_and_is_refused_elsewhere(request_: BuildRequest):
    if has_bf16():
        built = BACKEND.build(replace(request_, precision="bf16"))
        assert set(built.facts["executed"]["Convolution"]) == {"bf16"}
        assert built.facts["float_precision"] == "bf16"
        lq = image(64, 64)
        with open_session(built.path, built.facts) as session:
            assert 100 > output_psnr(session.run(lq), OnnxSession(built.path).run(lq)) >= FLOAT_DB["bf16"]
    else:
        with pytest.raises(StageFailed, match="bf16 is not what runs on this CPU"):
            BACKEND.build(replace(request_, precision="bf16"))


def test_int8_runs_in_integers(request_: BuildRequest):
    built = BACKEND.build(replace(request_, precision="int8"))
    quantized = len(ModelFolder(request_.model).scales()["weights"])
    ran = built.facts["executed"]["Convolution"]
    assert ran.get("u8", 0) + ran.get("i8", 0) == quantized == sum(convolutions_of(built.path).values())
    assert built.facts["notes"] == []


def folder_of(tmp_path: Path, pattern: str) -> Path:
    folded, ready = quantized(student(**PATTERNS[pattern]))
    return write_folder(tmp_path / "model", folded, "student", 17, ready).path


def test_what_the_file_has_in_float_is_counted_and_named(request_: BuildRequest, tmp_path: Path):
    built = BACKEND.build(replace(request_, precision="int8", model=folder_of(tmp_path, "hardswish")))
    assert built.facts["executed"]["Convolution"] == {"f32": 2, "u8": 15}
    [note] = built.facts["notes"]
    assert note.startswith("15 of 17 convolutions run in int8; the others are float in the Q/DQ file: ")
    assert note.endswith("/se/reduce/Conv in f32, /encoder.2/encoder.2.0/se/restore/Conv in f32")


def test_a_quantized_convolution_that_runs_in_float_is_a_failed_build(request_: BuildRequest, tmp_path: Path):
    """Behind transposed convolutions OpenVINO computes all but a few layers in float, from weights that it unpacks."""
    with pytest.raises(StageFailed, match=r"\(convolutions: \d+ in f32, \d+ in u8; not in it: '/stem/conv/Conv'\)"):
        BACKEND.build(replace(request_, precision="int8", model=folder_of(tmp_path, "deconvolution")))


def test_unsigned_activations_stay_integers(request_: BuildRequest, tmp_path: Path):
    folder = write_model_folder(tmp_path / "unsigned", SMALL, unsigned=True)
    built = BACKEND.build(replace(request_, model=folder, precision="int8"))
    assert set(built.facts["executed"]["Convolution"]) <= {"u8", "i8"}
    with open_session(built.path, built.facts) as session:
        assert output_psnr(session.run(image(64, 64)), OnnxSession(folder / "qdq_u8.onnx", optimise=False).run(image(64, 64))) > 40


@pytest.mark.parametrize(
    ("precision", "ran", "promised", "good"),
    [
        ("fp32", {"a": "f32", "b": "f32"}, "ab", True),
        ("fp32", {"a": "f32", "b": "bf16"}, "ab", False),
        ("bf16", {"a": "f32"}, "a", False),
        ("int8", {"a": "u8", "b": "i8", "c": "f32"}, "ab", True),
        ("int8", {"a": "u8", "b": "i8", "c": "f32"}, "abc", False),
        ("int8", {"a": "u8", "b": "nothing"}, "ab", False),
        ("int8", {"a": "f32"}, "", False),
        ("int8", {}, "", False),
    ],
)
def test_a_broken_promise_is_a_failed_build(precision: str, ran: dict[str, str], promised: str, good: bool):
    if good:
        check(precision, ran, promised)
    else:
        with pytest.raises(StageFailed, match=rf"{precision} is not what runs on this CPU \(convolutions: "):
            check(precision, ran, promised)


def test_threads_are_honoured_and_few_sizes_kept(request_: BuildRequest):
    built = BACKEND.build(request_)
    session = OpenVinoSession(built.path, "fp32", threads=2)
    for side in range(64, 64 + 8 * (SIZES + 2), 8):
        session.run(image(side, 64))
    compiled = session._request((1, 3, 64, 64)).get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == min(2, cores())
    assert len(session._requests) == SIZES
    session.close()
    with pytest.raises(StageFailed, match="session is closed"):
        session.run(image(64, 64))


def test_an_output_is_not_overwritten_by_the_next(request_: BuildRequest):
    built = BACKEND.build(request_)
    with open_session(built.path, built.facts) as session:
        first = session.run(image(64, 64))
        kept = first.copy()
        session.run(np.zeros((1, 3, 64, 64), np.float32))
        assert np.array_equal(first, kept)


def test_nan_in_is_nan_out_and_broken_files_are_named(request_: BuildRequest, tmp_path: Path):
    built = BACKEND.build(request_)
    with open_session(built.path, built.facts) as session:
        assert np.isnan(session.run(np.full((1, 3, 64, 64), np.nan, np.float32))).all()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(StageFailed, match="OpenVINO cannot read it"):
        open_session(broken, built.facts)


def test_missing_int8_is_named(request_: BuildRequest, float_folder: Path):
    with pytest.raises(StageFailed, match="stayed in float"):
        BACKEND.build(replace(request_, precision="int8", model=float_folder))


SIGNALLED = """
import gc, os, signal, sys, threading
import numpy as np
from pathlib import Path
from compile.openvino.backend import OpenVinoSession

def use():
    session = OpenVinoSession(Path(sys.argv[1]), "fp32")
    session.run(np.zeros((1, 3, 64, 64), np.float32))
    return [session]

held = use()
let_go = threading.Thread(target=lambda: (held.clear(), gc.collect()))
let_go.start()
let_go.join()
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
for _ in range(3):
    taken = [bytearray(1 << 14) for _ in range(64)]  # memory that was freed is used again
    os.kill(os.getpid(), signal.SIGUSR1)
print(len(seen))
"""


def test_a_signal_behind_a_session_that_another_thread_let_go_of(request_: BuildRequest):
    built = BACKEND.build(request_)
    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(built.path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
