"""A network of the user's own, with operators that neither a kernel nor a rule fits: schedules are searched for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compile.candidates import Attempt, Plan
from compile.onnxruntime.backend import OnnxSession
from compile.parity import output_psnr
from compile.reasons import build_notes
from compile.tvm import BACKEND, search
from compile.tvm.host import host_dict
from compile.tvm.lower import Lowered, lower
from compile.tvm.options import TvmOptions
from compile.tvm.records import Asked, Search, key_of
from eval.session import BuildRequest, open_session
from pipeline.errors import UsageError
from pipeline.target import load_target

SIZE = (24, 32)


def own_network(path: Path) -> None:
    """A dilated convolution, GELU, a shuffle of channels in five dimensions, softmax, a transposed 4x4 convolution, a mean; a residual."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(8, 3, 3, 3)) / 5,
        "t": rng.normal(size=(8, 3, 4, 4)) / 5,
        **{"half": np.array(0.5), "one": np.array(1.0), "root": np.array(2**-0.5)},
    }
    shapes = {"five": [1, 2, 4, *SIZE], "four": [1, 8, *SIZE]}
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    constants += [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["lq", "a"], ["y"], dilations=[2, 2], pads=[2, 2, 2, 2]),
        helper.make_node("Mul", ["y", "root"], ["y1"]),
        helper.make_node("Erf", ["y1"], ["y2"]),
        helper.make_node("Add", ["y2", "one"], ["y3"]),
        helper.make_node("Mul", ["y", "y3"], ["y4"]),
        helper.make_node("Mul", ["y4", "half"], ["gelu"]),
        helper.make_node("Reshape", ["gelu", "five"], ["z"]),
        helper.make_node("Transpose", ["z"], ["z1"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["z1", "four"], ["z2"]),
        helper.make_node("Softmax", ["z2"], ["s"], axis=1),
        helper.make_node("ConvTranspose", ["s", "t"], ["u"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("AveragePool", ["u"], ["v"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Add", ["lq", "v"], ["restored"]),
    ]
    for i, node in enumerate(nodes):
        node.name = f"{node.op_type}.{i}"
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *SIZE]) for name in ("lq", "restored")]
    graph = helper.make_graph(nodes, "own", image[:1], image[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(model_folder, tmp_path_factory.mktemp("own") / "folder"))
    own_network(out / "float.onnx")
    return out


def request(folder: Path, target: str, workdir: Path, records: Path, searches: int) -> BuildRequest:
    options = {"searches": searches, "tune": {"records": records, "trials": 1}} if target == "host" else {"searches": searches}
    return BuildRequest(folder, "fp32", *SIZE, load_target(target), workdir, for_host=target == "host", options=options)


SEARCHED = {"conv2d_transpose", "softmax", "fused_avg_pool2d_add1"}


def test_no_operator_is_left_as_plain_loops_and_a_second_build_searches_none(folder: Path, tmp_path: Path):
    built = BACKEND.build(request(folder, "host", tmp_path, tmp_path / "records", 2))
    assert built.facts["unscheduled"] == []
    assert built.facts["searched"] == {name: {"schedules": 2, "timed_now": 2} for name in SEARCHED}
    tried = "conv2d_transpose 2, fused_avg_pool2d_add1 2, softmax 2"
    assert built.facts["notes"] == [
        f"schedules were searched for where no kernel fits, timed on this machine: {tried} (6 of them now; at most 2 each and 60 s in all)"
    ]
    attempts = [Attempt(Plan("tvm", "fp32", threads=n), built) for n in (1, 4)]
    assert build_notes(attempts) == [f"tvm-fp32: {built.facts['notes'][0]}"]
    lq = np.random.default_rng(1).random((1, 3, *SIZE), np.float32)
    want = OnnxSession(folder / "float.onnx").run(lq)
    with open_session(built.path, built.facts, 1) as session:
        assert output_psnr(session.run(lq), want) > 60
    assert np.abs(want - lq).max() > 1e-2
    again = BACKEND.build(request(folder, "host", tmp_path, tmp_path / "records", 2))
    assert again.facts["searched"] == {name: {"schedules": 2, "timed_now": 0} for name in SEARCHED}


def test_a_mean_over_planes_has_a_rule_but_windows_and_several_passes_are_searched_for(folder: Path):
    found = lowered(folder, None)
    assert set(found.unscheduled) == SEARCHED


def lowered(folder: Path, how: Search | None) -> Lowered:
    return lower(onnx.load(folder / "float.onnx"), tvm_host(), search=how)


def test_an_interrupted_search_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, asked = search.time_here, Search(Asked(4, 600), tmp_path)
    timed: list[float] = []

    def time_some(*given: Any) -> float:
        if len(timed) == 6:
            raise KeyboardInterrupt
        timed.append(real(*given))
        return timed[-1]

    monkeypatch.setattr(search, "time_here", time_some)
    with pytest.raises(KeyboardInterrupt):
        lowered(folder, asked)
    databases = sorted(tmp_path.glob("*/database_tuning_record.json"), key=lambda p: p.stat().st_mtime_ns)
    assert [p.read_text().count("\n") for p in databases] == [4, 2]
    with databases[1].open("a") as file:
        file.write('[0,[[[["Get')  # killed while it wrote
    monkeypatch.setattr(search, "time_here", real)
    found = {f.name: (f.tried, f.timed) for f in lowered(folder, asked).searched}
    assert found == dict(zip(sorted(SEARCHED), [(4, 0), (4, 2), (4, 4)], strict=True))


def test_time_bounds_a_search_and_ends_it_for_good(folder: Path, tmp_path: Path):
    hasty = Search(Asked(1000, 1e-3), tmp_path)
    first = lowered(folder, hasty).searched
    assert {f.name for f in first} == SEARCHED
    assert all(0 < f.tried == f.timed < 20 for f in first)  # one that can be run at least
    assert [(f.tried, f.timed) for f in lowered(folder, hasty).searched] == [(f.tried, 0) for f in first]
    more = lowered(folder, Search(Asked(1000, 2e-3), tmp_path)).searched
    assert all(f.timed > 0 for f in more)


def test_the_fastest_on_record_is_taken(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    times = iter([5.0, 1.0, float("inf"), 3.0] * 3)
    drawn: list[Any] = []
    monkeypatch.setattr(search, "time_here", lambda candidate, *_: drawn.append(candidate.sch.mod["main"]) or next(times))
    found = lowered(folder, Search(Asked(4, 600), tmp_path))
    for i, name in enumerate(sorted(SEARCHED)):
        text = str(found.module[name].without_attr("tirx.is_scheduled").body)
        assert [str(f.body) == text for f in drawn[4 * i : 4 * i + 4]].index(True) == 1


def test_another_cpu_takes_what_is_fastest_here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DEBLUR_EDGE_CACHE", str(tmp_path))
    built = BACKEND.build(request(folder, "raspberry-pi-5", tmp_path, tmp_path, 1))
    assert built.facts["unscheduled"] == []
    assert set(built.facts["searched"]) == SEARCHED
    assert "timed on this machine, in place of cortex-a76: " in built.facts["notes"][0]
    assert len(list(tmp_path.glob("tvm-records/*/search.json"))) == len(SEARCHED)
    found = lowered(folder, TvmOptions(searches=1).search())  # the same operators on the same records
    assert {f.timed for f in found.searched} == {0}


def test_records_are_named_after_operator_and_cpu():
    import tvm

    relu, host = relu_of(4), tvm_host()
    other = tvm.target.Target({"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"})
    keys = [key_of(relu, host), key_of(relu_of(4), host), key_of(relu_of(8), host), key_of(relu, other)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    script = "import sys; from tests.compile.test_tvm_search import *; print(key_of(relu_of(4), tvm_host()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == keys[0]


def tvm_host() -> Any:
    import tvm

    return tvm.target.Target(host_dict())


def relu_of(size: int) -> Any:
    import tvm
    from tvm import te, topi

    x = te.placeholder((size,), "float32")
    return tvm.IRModule({"main": te.create_prim_func([x, topi.nn.relu(x)])})


def test_slopes_of_a_channel_and_constants_that_are_shared_keep_their_places(folder: Path, tmp_path: Path):
    """As PyTorch writes them: PRelu's slopes without the batch, and one of two equal constants as an Identity of the other."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(3, 3, 1, 1)) / 3, "slopes": np.array([0.1, 0.5, 2.0]).reshape(3, 1, 1)}
    nodes = [
        helper.make_node("Identity", ["slopes"], ["same"], name="same"),
        helper.make_node("Conv", ["lq", "w"], ["y"], name="conv"),
        helper.make_node("PRelu", ["y", "slopes"], ["y1"], name="first"),
        helper.make_node("PRelu", ["y1", "same"], ["restored"], name="second"),
    ]
    image = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *SIZE]) for name in ("lq", "restored")]
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "slopes", image[:1], image[1:], constants)
    own = Path(shutil.copytree(folder, tmp_path / "folder"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), own / "float.onnx")
    built = BACKEND.build(request(own, "host", tmp_path, tmp_path / "records", 1))
    assert built.facts["islands"] == ["first", "second"]
    lq = rng.random((1, 3, *SIZE), np.float32) - 0.5
    with open_session(built.path, built.facts, 1) as session:
        assert output_psnr(session.run(lq), OnnxSession(own / "float.onnx").run(lq)) > 90


def test_the_number_of_searches_is_checked(folder: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="searches"):
        BACKEND.build(request(folder, "host", tmp_path, tmp_path, 0))
