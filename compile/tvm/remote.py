"""Timing kernels on a board over TVM RPC: a tracker knows the boards, a server on each runs what it is sent.

On this machine: ``python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port 9190``. On the board, where apache-tvm is installed too:
``python -m tvm.exec.rpc_server --tracker HOST:9190 --key KEY``. Neither asks who calls: keep them in a network that you trust.
"""

from __future__ import annotations

import socket
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from compile.tvm.assemble import assemble
from compile.tvm.cpu import Cpu
from compile.tvm.link import link_shared
from compile.tvm.steps import ConvStep, Network
from compile.tvm.tiles import Tiles
from compile.tvm.timing import built
from pipeline.errors import StageFailed

_SECONDS = 60
"""How long a board may be silent before a session with it ends."""


def reach(address: str) -> tuple[str, int, str]:
    """The host, port and key of "host:port/key", after a look whether the tracker knows a board with that key.

    Raises:
        StageFailed: no tracker there, or no board with this key.

    """
    from tvm import rpc

    place, _, key = address.partition("/")
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()  # TVM itself tries for a minute
        known = rpc.connect_tracker(host, int(port)).summary()["queue_info"]
        if key not in known:  # TVM would wait for one for ever
            raise RuntimeError(f"it knows: {', '.join(sorted(known)) or 'none'}")
    except (OSError, RuntimeError, ValueError) as e:
        raise _absent(address, e) from e
    return host, int(port), key


def _absent(address: str, error: Exception) -> StageFailed:
    place, _, key = address.partition("/")
    return StageFailed(
        "compile.tvm",
        f"no board '{key}' at {place} ({str(error).strip().splitlines()[-1]})",
        f"on the board: python -m tvm.exec.rpc_server --tracker {place} --key {key}",
    )


class Remote:
    """Times the kernels of steps on a board behind a tracker.

    Args:
        address: "host:port/key".

    Raises:
        StageFailed: as ``reach``.

    """

    def __init__(self, address: str) -> None:
        from tvm import rpc

        host, port, key = reach(address)
        try:
            self._session = rpc.connect_tracker(host, port).request(key, session_timeout=_SECONDS, max_retry=1)
        except (OSError, RuntimeError, ValueError) as e:
            raise _absent(address, e) from e

    def __call__(self, step: ConvStep, cpu: Cpu, tiles: Tiles, target: Any) -> float:
        """Build the kernel of one step, send it and time it there: the lower quartile in seconds."""
        import tvm

        kernel = kernel_of(step, cpu, tiles)
        shapes = [(tuple(int(d) for d in p.shape), str(p.dtype)) for p in kernel.params]
        library = tvm.compile(tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")}), target=target)
        with tempfile.TemporaryDirectory() as tmp:
            path = _exported(library, target, Path(tmp))
            self._session.upload(str(path))
        device, rng = self._session.cpu(), np.random.default_rng(0)
        given = [tvm.runtime.tensor((rng.random(shape) * 50).astype(dtype), device) for shape, dtype in shapes]
        found = self._session.load_module(path.name).time_evaluator("main", device, number=1, repeat=20, min_repeat_ms=2)(*given)
        return float(np.percentile(found.results, 25))


class RemoteSchedules:
    """Times MetaSchedule's candidates on a board behind a tracker, by MetaSchedule's own runner: a session for each candidate.

    Args:
        address: "host:port/key".

    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._runner: Any = None

    def __enter__(self) -> RemoteSchedules:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.pool.shutdown()

    def __call__(self, candidate: Any, target: Any, fastest: float) -> float:
        """Build a candidate, send it and time it there: the lower quartile in seconds, infinite for one that cannot be built or run.

        Raises:
            StageFailed: as ``reach``, at the first candidate or when the board has gone since.

        """
        from tvm.s_tir import meta_schedule as ms

        self._runner = self._runner or self._started()  # not before it is needed: what is on record needs no board
        library = built(candidate.sch.mod["main"], target)
        if library is None:
            return float("inf")
        with tempfile.TemporaryDirectory() as tmp:
            path = _exported(library, target, Path(tmp))
            (future,) = self._runner.run([ms.runner.RunnerInput(str(path), "cpu", candidate.args_info)])
            result = future.result()
        if result.error_msg is not None:
            reach(self._address)  # the board's fault, or the candidate's?
            return float("inf")
        return float(np.percentile([float(s) for s in result.run_secs], 25))

    def _started(self) -> Any:
        from tvm.s_tir import meta_schedule as ms

        host, port, key = reach(self._address)
        place = ms.runner.RPCConfig(tracker_host=host, tracker_port=port, tracker_key=key, session_timeout_sec=_SECONDS)
        return ms.runner.RPCRunner(place, ms.runner.EvaluatorConfig(number=1, repeat=10, min_repeat_ms=2))


def _exported(library: Any, target: Any, folder: Path) -> Path:
    """The shared library of an executable, under a name that no loader has seen before: it would hand out the old library."""
    path = folder / f"{uuid.uuid4().hex}.so"
    arch, *_, system = str(target.attrs["mtriple"]).split("-")

    def fcompile(out: str, objects: list[str], options: object = None, **_: object) -> None:
        link_shared(Path(out), list(objects), arch, system)

    library.export_library(str(path), fcompile=fcompile)
    return path


def kernel_of(step: ConvStep, cpu: Cpu, tiles: Tiles) -> Any:
    """The TIR function of one step."""
    from tvm import tirx

    module = assemble(Network((step,), step.inputs, step.out), cpu, tiles, 17).module
    return next(f for f in module.functions.values() if isinstance(f, tirx.PrimFunc))
