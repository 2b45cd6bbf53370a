"""Every backend in compile/ is complete: found by its folder, named when it is missing, and true to the network where it runs."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from compile.candidates import Attempt, Plan
from compile.child import Runtimes
from compile.judge import Judge
from compile.parity import FLOAT_DB
from eval.session import Backend, BuildRequest, load_backend, open_session
from pipeline.contract import Verdict
from pipeline.errors import StageFailed, ToolchainMissing
from pipeline.target import Target, known_targets, load_target
from quantize.artifact import ModelFolder
from tests.compile.networks import Photos

FOLDER = Path(importlib.util.find_spec("compile").origin).parent
NAMES = sorted(p.parent.name for p in FOLDER.glob("*/backend.py"))
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
SIDE = 96


@pytest.fixture
def host() -> Target:
    return load_target("host")


def target_of(name: str, host: Target) -> Target:
    """The first target that names a backend, else the host."""
    return next((t for t in map(load_target, known_targets()) if any(b.use == name for b in t.backends)), host)


def attempt(name: str, precision: str, model: Path, host: Target, workdir: Path) -> Attempt:
    """A backend's artifact for this machine; skips, with the reason, what it has not or what is not installed."""
    backend = load_backend(name)
    if backend.missing():
        pytest.skip(f"not installed: {backend.missing()}")
    try:
        built = backend.build(BuildRequest(model, precision, SIDE, SIDE, target_of(name, host), workdir, for_host=True))
    except StageFailed as e:
        assert f"has no {precision}" in e.what or "not what runs on this CPU" in e.what, e
        pytest.skip(str(e))
    if not built.facts["runs_here"]:
        pytest.skip("runs on the device only")
    return Attempt(Plan(name, precision, for_host=True), built)


def test_backends_are_found():
    assert {"litert", "null", "onnxruntime", "openvino", "tensorrt", "tvm"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_exports_one_backend_of_its_name(name: str):
    module = importlib.import_module(f"compile.{name}")
    assert isinstance(module.BACKEND, Backend)
    assert module.BACKEND.name == name
    assert module.__doc__
    assert module.BACKEND.needs or name == "null", "the bundle's README says what a board needs"


def test_a_module_that_is_no_backend_is_named():
    with pytest.raises(ToolchainMissing, match=r"tests.compile.natives.works: exports no BACKEND"):
        load_backend("tests.compile.natives.works")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_exit_6_with_the_line_that_installs_it(
    name: str, model_folder: Path, host: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    backend = load_backend(name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    if name == "null":
        assert backend.missing() == ""
        return
    with pytest.raises(ToolchainMissing, match=rf"{name}: its packages are not installed\nhint: pip install ") as caught:
        backend.build(BuildRequest(model_folder, "fp32", SIDE, SIDE, host, tmp_path))
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_precision_is_named(name: str, model_folder: Path, host: Target, tmp_path: Path):
    backend = load_backend(name)
    if backend.missing():
        pytest.skip(f"not installed: {backend.missing()}")
    with pytest.raises(StageFailed, match=rf"compile.{name}: has no int4"):
        backend.build(BuildRequest(model_folder, "int4", SIDE, SIDE, host, tmp_path))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_what_runs_here_is_the_same_network(name: str, precision: str, model_folder: Path, host: Target, tmp_path: Path):
    made = attempt(name, precision, model_folder, host, tmp_path)
    facts = made.built.facts
    assert (facts["backend"], facts["precision"]) == (f"compile.{name}", precision)
    assert facts["float_precision"] in PRECISIONS[:3]
    with Runtimes(tmp_path / "runtimes") as runtimes:
        [judged] = Judge(ModelFolder(model_folder), Photos(height=SIDE, width=SIDE), host, SIDE, 0.01, runtimes).judge([made])
    if name == "null":
        assert judged.parity.verdict is Verdict.FAILED  # the identity is not the network
        return
    assert judged.parity.verdict is Verdict.PASSED, judged.parity.reason
    rows = {m.name: m.value for m in judged.measurements}
    if precision == "int8":
        assert abs(rows["parity_task_psnr"]) <= 0.05
        assert "scales and integers exact" in judged.parity.reason
    else:
        assert rows["parity_psnr"] >= FLOAT_DB[precision]
        assert ("parity_task_psnr" in rows) == (precision == "bf16")


@pytest.mark.parametrize("name", NAMES)
def test_a_session_takes_threads_and_tells_its_size(name: str, model_folder: Path, host: Target, tmp_path: Path):
    made = attempt(name, "fp32", model_folder, host, tmp_path)
    lq = np.random.default_rng(0).random((1, 3, SIDE, SIDE), np.float32)
    outputs = []
    for threads in (1, 2):
        with open_session(made.built.path, made.built.facts, threads) as session:
            assert (session.height, session.width) in ((0, 0), (SIDE, SIDE))
            outputs.append(session.run(lq))
    assert outputs[0].shape == lq.shape
    assert outputs[0].dtype == np.float32
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5
