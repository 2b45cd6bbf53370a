"""A board that runs TVM's RPC server, found through its tracker: a farm of boards serves several users, who wait in line there.

Such a board has no shell and runs TVM's artifacts alone. The server keeps what it is sent in a folder of the session's own and removes
it when the session ends. Only the network is timed, not a whole frame.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from pipeline.arrays import read_array
from pipeline.errors import StageFailed, ToolchainMissing, UsageError
from targets.transports.common.base import RESULT, Fetched, Identity, Job, Transport
from targets.transports.common.figures import STABLE_CV, statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_S = 10.0
"""Seconds until a tracker that does not answer counts as off."""

ASK_S = 2.0
"""Seconds between two looks at the tracker's line."""

WARMUP = 3
LEAST = 50
"""Runs before and during the measurement, at least."""

_LOST = ("closed", "reset", "refused", "timeout", "Timeout", "socket", "recv", "send", "expired", "Broken pipe")


class Rpc(Transport):
    """``rpc://tracker:port/key``."""

    scheme = "rpc"
    form = "rpc://tracker:port/key"

    def __init__(self, rest: str, say: Callable[[str], None]) -> None:
        super().__init__(rest, say)
        found = re.fullmatch(r"(?P<host>[\w.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})/(?P<key>[\w.+-]+)", rest, re.ASCII)
        if found is None:
            raise UsageError(f"--on rpc://{rest}", "is not a tracker and a key", f"write {self.form}, e.g. rpc://127.0.0.1:9190/xavier")
        self.host, self.port, self.key = found["host"].strip("[]"), int(found["port"]), found["key"]

    @property
    def name(self) -> str:
        """The address as it was given."""
        return f"rpc://{self.rest}"

    def look(self) -> Identity:
        """What the tracker knows of the board, without a session: that it announced itself."""
        with self._words(), self._tracker() as tracker:
            self._require_known(tracker.summary())
        return {"tracker_key": self.key}

    def bench(self, job: Job, salvage: Callable[[Mapping[str, bytes]], None]) -> Fetched:
        """Carry out a job: see ``Transport.bench``. Nothing is salvaged: the times are on this side as they come."""
        del salvage
        if job.facts["backend"] != "tvm":
            what = f"runs TVM's artifacts, and '{job.artifact}' is of {job.facts['backend']}"
            raise UsageError(self.name, what, "name another with --artifact, or use another way to the board")
        started, begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
        with self._words(), self._session(job) as remote:
            identity = self._identity(remote)
            job.check(identity)
            measured = self._measure(remote, job)
        device = {k: v for k, v in identity.items() if k != "tracker_key"}
        head = {"schema": 2, "bundle_sha256": job.sha256, "artifact": job.artifact, "precision": job.facts["precision"]}
        tail = {"device": device, "started": started, "seconds": round(time.monotonic() - begin, 3)}
        return Fetched({RESULT: json.dumps({**head, **measured, **tail}).encode(), "log": b""}, identity)

    @contextmanager
    def _words(self) -> Iterator[None]:
        """What TVM raises, in words."""
        try:
            yield
        except (RuntimeError, OSError) as e:
            last = (str(e).strip().splitlines() or [type(e).__name__])[-1].strip()
            if any(word in str(e) for word in _LOST):
                raise ToolchainMissing(self.name, f"the connection was lost ({last})", "look at the server's log, and run again") from e
            raise StageFailed(
                self.name, f"the artifact does not run there: {last}", "look at the server's log; rebuild with its TVM version"
            ) from e

    @contextmanager
    def _session(self, job: Job) -> Iterator[Any]:
        """A session with a free board; waits in line."""
        with self._tracker() as tracker:
            self._wait(tracker, job.wait_s)
            yield tracker.request(self.key, priority=1, session_timeout=job.limit_s, max_retry=2)

    @contextmanager
    def _tracker(self) -> Iterator[Any]:
        if not importlib.util.find_spec("tvm"):
            raise ToolchainMissing("tvm", "is not installed here", 'pip install -e ".[tvm]"')
        from tvm import rpc

        try:
            socket.create_connection((self.host, self.port), timeout=CONNECT_S).close()  # TVM itself tries for a minute
            tracker = rpc.connect_tracker(self.host, self.port)
        except (RuntimeError, OSError) as e:
            hint = f"python -m tvm.exec.rpc_tracker --port {self.port}"
            raise ToolchainMissing(self.name, f"no tracker answers there ({str(e).splitlines()[-1]})", hint) from e
        try:
            yield tracker
        finally:
            tracker.close()

    def _wait(self, tracker: Any, wait_s: float) -> None:
        deadline, told = time.monotonic() + wait_s, False
        while True:
            summary = tracker.summary()
            line = summary["queue_info"].get(self.key, {"free": 0, "pending": 0})
            if line["free"]:
                return
            if not line["pending"]:
                self._require_known(summary)
            if time.monotonic() > deadline:
                hint = "try again later, or wait longer with --wait SECONDS"
                raise ToolchainMissing(self.name, f"every board '{self.key}' is still in use after {wait_s:g} s", hint)
            if not told:
                self.say(f"waiting in line: every board '{self.key}' is in use, {line['pending']} before us")
            told = True
            time.sleep(ASK_S)

    def _require_known(self, summary: Mapping[str, Any]) -> None:
        known = {str(row["key"]).partition(":")[2] for row in summary["server_info"]}
        if self.key not in known:
            hint = f"on the board: python -m tvm.exec.rpc_server --tracker HOST:{self.port} --key {self.key}"
            there = ", ".join(sorted(known)) or "none"
            raise ToolchainMissing(self.name, f"no board '{self.key}' has announced itself; there are: {there}", hint)

    def _identity(self, remote: Any) -> dict[str, str]:
        """What the server lets us read of the board."""
        found = {"tracker_key": self.key}
        for name, path in (("model", "/proc/device-tree/model"), ("l4t", "/etc/nv_tegra_release")):
            with suppress(RuntimeError, OSError):  # other boards have no such file
                text = bytes(remote.download(path)).decode("utf-8", "replace").strip("\0 \n")
                found |= {name: text.splitlines()[0]} if text else {}
        return found

    def _measure(self, remote: Any, job: Job) -> dict[str, Any]:
        import numpy as np
        import tvm
        from tvm import relax

        path = job.bundle / job.facts["path"]
        remote.upload(str(path), path.name)
        if hashlib.sha256(bytes(remote.download(path.name))).hexdigest() != job.facts["sha256"]:
            raise StageFailed(self.name, f"'{path.name}' differs from its hash on the board", "check the board's storage")
        self.say("the artifact is verified on the board")
        device, golden = remote.cpu(), job.facts["golden"]
        machine = relax.VirtualMachine(remote.load_module(path.name), device)
        lq = read_array(job.bundle / golden["input"]).astype(np.float32) * np.float32(1 / 255)
        given = tvm.runtime.tensor(lq, device)
        got = machine["main"](given).numpy()
        psnr = _psnr(got, read_array(job.bundle / golden["expected"]))
        bound = float(golden["psnr_at_least"])
        if not psnr >= bound:
            raise StageFailed(
                self.name, f"the output is {psnr:.1f} dB from the golden one, at least {bound:g} dB", "the artifact is not for this board"
            )
        machine.set_input("main", given)
        kernel = statistics(_times(machine.time_evaluator, device, job.seconds))
        stable = kernel["cv"] <= STABLE_CV
        height, width = lq.shape[2:]
        return {
            "verified": True,
            "golden": {"psnr": psnr if math.isfinite(psnr) else None, "identical": psnr == math.inf, "bound": bound},
            "protocol": {"warmup": WARMUP, "min_seconds": job.seconds, "min_count": LEAST, "threads": None, "input": [height, width]},
            "kernel": {**kernel, "height": height, "width": width},
            "frame": None,
            "samples": None,
            "stable": stable,
            "unstable_reason": "" if stable else f"the times vary by {100 * kernel['cv']:.0f} %, at most {100 * STABLE_CV:.0f} %",
        }


def _times(evaluator: Callable[..., Any], device: Any, seconds: float) -> list[float]:
    """Milliseconds of single runs, by the board's own clock, until both the least time and the least count are reached."""
    evaluator("invoke_stateful", device, number=1, repeat=WARMUP)("main")
    times: list[float] = []
    repeat = 10
    while len(times) < LEAST or math.fsum(times) < seconds * 1e3:
        times += [1e3 * t for t in evaluator("invoke_stateful", device, number=1, repeat=repeat)("main").results]
        repeat = max(10, min(2000, int(100 / max(times[-1], 1e-3))))  # a tenth of a second per call over the network
    return times


def _psnr(got: Any, want: Any) -> float:
    """PSNR in dB as the device's script computes it: infinite when equal, NaN when either holds a NaN."""
    import numpy as np

    if want.dtype == np.uint8:
        got, want = np.rint(np.clip(got, 0, 1) * 255) / 255, want / 255.0
    mse = float(np.mean(np.square(got.astype(np.float64) - want)))
    return math.inf if mse == 0 else -10 * math.log10(mse) if math.isfinite(mse) else math.nan


TRANSPORT = Rpc
