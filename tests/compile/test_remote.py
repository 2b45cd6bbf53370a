from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compile.child import ChildDied, Runtimes
from compile.onnxruntime.backend import OnnxSession, onnxruntime_facts
from compile.remote import RemoteSession, in_turn
from pipeline.errors import StageFailed
from tests.compile.natives import works


@pytest.fixture
def runtimes(tmp_path: Path) -> Iterator[Runtimes]:
    with Runtimes(tmp_path / "logs") as found:
        yield found


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 64, 64), np.float32)


def crashing(precision: str) -> dict[str, object]:
    return {**onnxruntime_facts(precision), "backend": "tests.compile.natives.crashes_running"}


def test_it_is_the_session_of_the_other_process(model_folder: Path, runtimes: Runtimes, image: np.ndarray):
    path = model_folder / "float.onnx"
    session = RemoteSession(runtimes, path, onnxruntime_facts("fp32"))
    assert (session.height, session.width) == (0, 0)
    assert np.array_equal(session.run(image), OnnxSession(path).run(image))
    assert 0 < session.time_ms(image) < 60_000
    session.close()
    with pytest.raises(StageFailed, match="session is closed"):
        session.run(image)


def test_its_time_is_that_of_the_batch_it_is_given(model_folder: Path, runtimes: Runtimes, image: np.ndarray):
    session = RemoteSession(runtimes, model_folder / "float.onnx", onnxruntime_facts("fp32"))
    large = np.zeros((1, 3, 512, 512), np.float32)
    times = [min(session.time_ms(x) for _ in range(5)) for x in (image, large, image)]
    assert times[1] > 4 * max(times[0], times[2])  # 64 times the pixels


def test_after_a_crash_of_its_process_it_is_opened_again(model_folder: Path, runtimes: Runtimes, image: np.ndarray):
    session = RemoteSession(runtimes, model_folder / "float.onnx", onnxruntime_facts("fp32"))
    want = session.run(image)
    session.time_ms(image)
    with pytest.raises(ChildDied):
        runtimes.call("compile.onnxruntime", works.crash)
    assert session.time_ms(image) > 0
    assert np.array_equal(session.run(image), want)


def test_what_cannot_be_opened_is_named(tmp_path: Path, runtimes: Runtimes):
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(StageFailed, match="ONNX Runtime cannot load it"):
        RemoteSession(runtimes, tmp_path / "broken.onnx", onnxruntime_facts("fp32"))


def test_in_turn_measures_what_lives_and_says_what_died(model_folder: Path, runtimes: Runtimes, image: np.ndarray):
    sessions = {
        "good": RemoteSession(runtimes, model_folder / "float.onnx", onnxruntime_facts("fp32")),
        "dies": RemoteSession(runtimes, model_folder / "float.onnx", crashing("fp32")),
        "beside": RemoteSession(runtimes, model_folder / "qdq_u8.onnx", crashing("int8")),
    }
    times, failed = in_turn(sessions, dict.fromkeys(sessions, image), min_seconds=0.01, min_count=7)
    assert failed == {"dies": "its process was killed by SIGSEGV"}
    assert set(times) == {"good", "beside"}
    assert len(times["good"].ms) == len(times["beside"].ms) >= 7
    assert all(sum(t.ms) >= 10 for t in times.values())
    assert in_turn({}, {}, min_seconds=1) == ({}, {})


def test_the_wall_s_clock_is_latency_and_the_cpu_s_is_work(runtimes: Runtimes, image: np.ndarray, tmp_path: Path):
    session = RemoteSession(runtimes, tmp_path, {"backend": "tests.compile.natives.sleeps"})
    assert session.time_ms(image) >= 100
    assert session.time_ms(image, "cpu") < 50
