"""TVM's RPC: a real tracker and real servers, as a farm of boards has them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.devices import reachable
from pipeline.errors import PipelineError, StageFailed, ToolchainMissing, UsageError
from pipeline.store import hash_file
from pipeline.target import load_target
from targets.transports import open_transport
from targets.transports import rpc as rpc_module
from targets.transports.common.base import Identity, Job
from tests.boards.bundle_example import small_bundle
from tests.targets.transports.conftest import Bench, make_job, when

pytest.importorskip("tvm", reason='needs TVM: pip install -e ".[tvm]"')
for package in ("tornado", "cloudpickle"):
    pytest.importorskip(package, reason=f"TVM's tracker needs {package}: pip install {package}")
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(module: str, *args: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TVM_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *args]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """The process and the workers that it forks."""
    os.killpg(process.pid, 9)
    process.wait()


@pytest.fixture(scope="module")
def farm() -> Iterator[str]:
    """Address of a tracker to which one board has announced itself as ``xavier``."""
    port, other = free_port(), free_port()
    tracker = start("rpc_tracker", "--port", str(port), "--port-end", str(port + 1))
    server = start("rpc_server", "--tracker", f"127.0.0.1:{port}", "--key", "xavier", "--port", str(other), "--port-end", str(other + 1))
    try:
        wait_for(port, "xavier")
        yield f"127.0.0.1:{port}"
    finally:
        stop(server)
        stop(tracker)


def wait_for(port: int, key: str) -> None:
    from tvm import rpc

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if rpc.connect_tracker("127.0.0.1", port).summary()["queue_info"].get(key, {}).get("free"):
                return
        except (OSError, RuntimeError):
            time.sleep(0.2)
    raise TimeoutError(key)


@pytest.fixture(scope="module")
def tvm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle whose artifact TVM compiled for this machine."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    from compile.tvm.link import link_shared

    folder = tmp_path_factory.mktemp("tvm")
    small_bundle(folder / "plain")
    network = from_onnx(onnx.load(folder / "plain/reference/fp32.onnx"), shape_dict={"lq": [1, 3, 32, 32]}, keep_params_in_input=False)
    library = folder / "net.so"

    def link(path: str, objects: list[str], options: object = None, **_: object) -> None:
        link_shared(Path(path), list(objects), os.uname().machine, "gnu")

    built = tvm.compile(relax.get_pipeline("zero")(network), target=tvm.target.Target("llvm"))
    built.export_library(str(library), fcompile=link)
    extra = {"artifacts/net.so": library.read_bytes()}
    changes = {"backend": "tvm", "path": "artifacts/net.so", "sha256": hash_file(library), "height": 32, "width": 32}
    return small_bundle(folder / "bundle", extra=extra, **changes)


@pytest.fixture(autouse=True)
def short_asks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rpc_module, "ASK_S", 0.2)


def bench(farm: str, job: Job) -> tuple[dict[str, object], Bench]:
    way = Bench(f"rpc://{farm}/xavier")
    return json.loads(way(job).files["result.json"]), way


def test_the_network_is_verified_and_timed_there(farm: str, tvm_bundle: Path):
    seen: list[Identity] = []
    result, way = bench(farm, replace(make_job(tvm_bundle), check=seen.append))
    assert result["verified"] is True
    assert result["golden"]["bound"] == 60.0
    kernel = result["kernel"]
    assert kernel["count"] == len(kernel["times_ms"]) >= 50
    assert sum(kernel["times_ms"]) >= 100
    assert 0 < kernel["p50_ms"] <= kernel["p90_ms"] <= kernel["p99_ms"]
    assert kernel["p50_ms"] == pytest.approx(np.percentile(kernel["times_ms"], 50), abs=1e-4)
    assert (result["frame"], result["protocol"]["input"]) == (None, [32, 32])
    assert seen[0]["tracker_key"] == "xavier"
    assert "the artifact is verified on the board" in way.told


def test_two_users_wait_in_line(farm: str, tvm_bundle: Path):
    first, second = Bench(f"rpc://{farm}/xavier"), Bench(f"rpc://{farm}/xavier")
    at_work, let_go = threading.Event(), threading.Event()
    held = replace(make_job(tvm_bundle), check=lambda identity: (at_work.set(), let_go.wait(120)))
    threads = [threading.Thread(target=first, args=(held,)), threading.Thread(target=second, args=(make_job(tvm_bundle),))]
    threads[0].start()
    assert at_work.wait(60)
    watch = when(lambda: "waiting in line" in second.told.text, let_go.set, seconds=60)
    threads[1].start()
    for t in (*threads, watch):
        t.join()
    assert let_go.is_set()  # only the second one's waiting lets the first go on; the first may itself wait for the test before
    assert all("the artifact is verified on the board" in way.told for way in (first, second))


def test_a_board_that_is_not_there_is_said(farm: str, tvm_bundle: Path):
    with pytest.raises(ToolchainMissing) as e:
        Bench(f"rpc://{farm}/orin")(make_job(tvm_bundle))
    assert e.value.what == "no board 'orin' has announced itself; there are: xavier"
    assert "tvm.exec.rpc_server" in e.value.hint


def test_no_tracker(tvm_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    from tvm.rpc import base

    connect = base.connect_with_retry
    monkeypatch.setattr(base, "connect_with_retry", lambda addr: connect(addr, timeout=0.5, retry_period=0.2))
    with pytest.raises(ToolchainMissing, match="no tracker answers there"):
        Bench(f"rpc://127.0.0.1:{free_port()}/xavier")(make_job(tvm_bundle))


def test_a_board_of_the_farm_is_known_without_a_session(farm: str):
    assert open_transport(f"rpc://{farm}/xavier", print).look() == {"tracker_key": "xavier"}
    [xavier] = [d for d in reachable([load_target("host")], [f"rpc://{farm}/xavier"]) if d.where != "local"]
    assert (xavier.error, xavier.targets, xavier.judged) == (None, (), False)
    assert "none of the targets" not in xavier.told(), "that is not known"
    with pytest.raises(ToolchainMissing, match="no board 'nano' has announced itself; there are: xavier"):
        open_transport(f"rpc://{farm}/nano", print).look()
    with pytest.raises(ToolchainMissing, match="no tracker answers there"):
        open_transport(f"rpc://127.0.0.1:{free_port()}/nano", print).look()


def test_a_wrong_output_is_refused(farm: str, tvm_bundle: Path, tmp_path: Path):
    job = make_job(tvm_bundle)
    expected = tmp_path / "wrong.npy"
    np.save(expected, np.load(tvm_bundle / job.facts["golden"]["expected"]) + 0.1)
    golden = {**job.facts["golden"], "expected": str(expected)}
    with pytest.raises(StageFailed, match=r"the output is 20\.0 dB from the golden one, at least 60 dB"):
        Bench(f"rpc://{farm}/xavier")(replace(job, facts={**job.facts, "golden": golden}))


def test_a_library_that_does_not_load_is_said(farm: str, tvm_bundle: Path):
    job = make_job(tvm_bundle)
    facts = {**job.facts, "path": "bench.py", "sha256": hash_file(tvm_bundle / "bench.py")}
    with pytest.raises(PipelineError) as e:
        Bench(f"rpc://{farm}/xavier")(replace(job, facts=facts))
    assert e.value.exit_code in {5, 6}
    assert str(e.value).count("\n") == 1


def test_other_backends_are_refused(farm: str, job: Job):
    with pytest.raises(UsageError, match="runs TVM's artifacts, and 'onnxruntime-fp32' is of onnxruntime"):
        Bench(f"rpc://{farm}/xavier")(job)


@pytest.mark.parametrize("rest", ["", "host/key", "host:1", "host:x/key", "host:1/", "a b:1/k", "h:1/k\n"])
def test_what_is_no_address_is_refused(rest: str):
    with pytest.raises(UsageError, match="is not a tracker and a key"):
        open_transport(f"rpc://{rest}", print)
