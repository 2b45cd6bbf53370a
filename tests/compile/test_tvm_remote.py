"""Timing kernels over TVM RPC: a tracker and a board's server as processes on loopback."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compile.tvm.cpu import cpu_of
from compile.tvm.fuse import fuse_sums
from compile.tvm.graph import Graph
from compile.tvm.host import host_dict
from compile.tvm.kernels.conv import Tile
from compile.tvm.kernels.tensors import Number
from compile.tvm.network import read_network
from compile.tvm.records import Asked, Records, Search
from compile.tvm.remote import Remote, RemoteSchedules
from compile.tvm.search import Found, measure_schedules, search_module
from compile.tvm.steps import ConvStep
from compile.tvm.tiles import Tiles
from compile.tvm.tune import tune_network
from pipeline.errors import StageFailed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if importlib.util.find_spec("tornado") is None or importlib.util.find_spec("psutil") is None:
        pytest.skip("needs TVM's RPC: pip install tornado psutil")
    port = free_port()
    place = f"127.0.0.1:{port}"
    tracker = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    own = free_port()
    server = ["--host", "127.0.0.1", "--port", str(own), "--port-end", str(own + 9), "--tracker", place, "--key", "board"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        subprocess.Popen(tracker, **quiet) as first,
        subprocess.Popen([sys.executable, "-m", "tvm.exec.rpc_server", *server], **quiet) as second,
    ):
        try:
            wait_for(f"{place}/board")
            yield f"{place}/board"
        finally:
            second.terminate()
            first.terminate()


def wait_for(address: str) -> None:
    """Until the board has told the tracker of itself."""
    from tvm import rpc

    place, _, key = address.partition("/")
    host, _, port = place.partition(":")
    end = time.monotonic() + 300
    while time.monotonic() < end:
        try:
            if rpc.connect_tracker(host, int(port)).summary()["queue_info"].get(key, {}).get("free", 0):
                return
        except (OSError, RuntimeError):
            pass  # not up yet
        time.sleep(0.5)
    pytest.fail("the board did not come up")


def network(folder: Path, tmp_path: Path):
    import onnx

    from models.export import fix_size

    fix_size(folder / "float.onnx", tmp_path / "fixed.onnx", 32, 32)
    return fuse_sums(read_network(Graph(onnx.load(tmp_path / "fixed.onnx")), "uint8", Number()))


def test_a_board_s_times_are_recorded_and_an_interrupted_tuning_goes_on(address: str, model_folder: Path, tmp_path: Path):
    import tvm

    target = tvm.target.Target(host_dict())
    cpu, found = cpu_of(target), network(model_folder, tmp_path)
    remote, timed = Remote(address), []

    def measure(step: ConvStep, *rest: object) -> float:
        if len(timed) == 3:
            raise KeyboardInterrupt
        seconds = remote(step, *rest)
        timed.append(seconds)
        return seconds

    with pytest.raises(KeyboardInterrupt):
        tune_network(found, cpu, target, tmp_path / "records", measure)
    assert len(list((tmp_path / "records").glob("*.json"))) == 3
    assert all(1e-8 < seconds < 1 for seconds in timed)
    best = tune_network(found, cpu, target, tmp_path / "records", lambda *_: pytest.fail("measured again"), trials=0)
    assert len(best) == 1  # the three belong to the heaviest shape, and are read, not measured
    assert isinstance(next(iter(best.values())), Tile)


def test_a_kernel_runs_on_the_board(address: str, model_folder: Path, tmp_path: Path):
    import tvm

    target = tvm.target.Target(host_dict())
    cpu = cpu_of(target)
    steps = [s for s in network(model_folder, tmp_path).steps if isinstance(s, ConvStep)]
    seconds = [Remote(address)(step, cpu, Tiles.shipped(cpu), target) for step in (steps[0], steps[1])]
    assert np.isfinite(seconds).all()


def test_schedules_are_timed_on_the_board_and_kept(address: str, tmp_path: Path):
    import tvm

    target = tvm.target.Target(host_dict())

    def found(rpc: str) -> list[Found]:
        module = tvm.IRModule({"pool": pooling()})
        out = search_module(module, ["pool"], target, Search(Asked(3, 600), tmp_path, rpc))
        assert module["pool"].attrs["tirx.is_scheduled"]
        return out

    with RemoteSchedules(address) as remote:
        times = []

        def measure(candidate: object, *rest: object) -> float:
            if len(times) == 2:
                raise KeyboardInterrupt
            times.append(remote(candidate, *rest))
            return times[-1]

        records = Records(tmp_path, tvm.IRModule({"main": pooling().with_attr("global_symbol", "main")}), target)
        with records.locked(), pytest.raises(KeyboardInterrupt):
            measure_schedules(records, target, measure, Asked(3, 600), 600)
    assert all(1e-8 < seconds < 1 for seconds in times)
    assert found(address) == [Found("pool", 3, 1)]
    assert found("127.0.0.1:1/board") == [Found("pool", 3, 0)]  # what is on record needs no board


def test_a_board_that_goes_away_ends_the_search_and_leaves_no_false_record(tmp_path: Path):
    import tvm

    target = tvm.target.Target(host_dict())
    with pytest.raises(StageFailed, match=r"no board 'pi' at 127\.0\.0\.1:1"):
        search_module(tvm.IRModule({"pool": pooling()}), ["pool"], target, Search(Asked(3, 600), tmp_path, "127.0.0.1:1/pi"))
    assert list(tmp_path.glob("*/database_workload.json"))
    assert not any(p.stat().st_size for p in tmp_path.glob("*/database_tuning_record.json"))


def pooling():
    from tvm import te, topi

    x = te.placeholder((1, 4, 32, 32), "float32")
    return te.create_prim_func([x, topi.nn.pool2d(x, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), "avg")]).without_attr("global_symbol")


def test_an_absent_board_is_refused_with_what_to_start():
    with pytest.raises(StageFailed, match=r"no board 'pi' at 127.0.0.1:1 .*\nhint: on the board: python -m tvm.exec.rpc_server"):
        Remote("127.0.0.1:1/pi")


def test_another_key_is_refused_at_once(address: str):
    with pytest.raises(StageFailed, match=r"no board 'xavier' at .* \(it knows: .*board"):
        Remote(address.replace("/board", "/xavier"))
