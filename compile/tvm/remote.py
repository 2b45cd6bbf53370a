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
from pipeline.errors import StageFailed

_SECONDS = 60
"""How long a board may be silent before a session with it ends."""


class Remote:
    """A board behind a tracker.

    Args:
        address: "host:port/key".

    Raises:
        StageFailed: no tracker there, or no board with this key.

    """

    def __init__(self, address: str) -> None:
        from tvm import rpc

        place, _, key = address.partition("/")
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()  # TVM itself tries for a minute
            tracker = rpc.connect_tracker(host, int(port))
            if key not in tracker.summary()["queue_info"]:  # TVM would wait for one for ever
                raise RuntimeError(f"it knows: {', '.join(sorted(tracker.summary()['queue_info'])) or 'none'}")
            self._session = tracker.request(key, session_timeout=_SECONDS, max_retry=1)
        except (OSError, RuntimeError, ValueError) as e:
            raise StageFailed(
                "compile.tvm",
                f"no board '{key}' at {place} ({str(e).strip().splitlines()[-1]})",
                f"on the board: python -m tvm.exec.rpc_server --tracker {place} --key {key}",
            ) from e

    def __call__(self, step: ConvStep, cpu: Cpu, tiles: Tiles, target: Any) -> float:
        """Build the kernel of one step, send it and time it there: the lower quartile in seconds."""
        import tvm

        kernel = kernel_of(step, cpu, tiles)
        shapes = [(tuple(int(d) for d in p.shape), str(p.dtype)) for p in kernel.params]
        library = tvm.compile(tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")}), target=target)
        triple = str(target.attrs["mtriple"]).split("-")
        with tempfile.TemporaryDirectory() as tmp:
            path = Path(tmp) / f"{uuid.uuid4().hex}.so"  # a loader that has seen a name before hands out the old library

            def fcompile(out: str, objects: list[str], options: object = None, **_: object) -> None:
                link_shared(Path(out), list(objects), triple[0], triple[-1])

            library.export_library(str(path), fcompile=fcompile)
            self._session.upload(str(path))
        device, rng = self._session.cpu(), np.random.default_rng(0)
        given = [tvm.runtime.tensor((rng.random(shape) * 50).astype(dtype), device) for shape, dtype in shapes]
        found = self._session.load_module(path.name).time_evaluator("main", device, number=1, repeat=20, min_repeat_ms=2)(*given)
        return float(np.percentile(found.results, 25))


def kernel_of(step: ConvStep, cpu: Cpu, tiles: Tiles) -> Any:
    """The TIR function of one step."""
    from tvm import tirx

    module = assemble(Network((step,), step.inputs, step.out), cpu, tiles, 17).module
    return next(f for f in module.functions.values() if isinstance(f, tirx.PrimFunc))
