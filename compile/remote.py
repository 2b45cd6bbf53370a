"""Sessions whose runtime works in another process, and timing them in turn.

The clock is read beside the runtime: the way over the pipe is no part of a time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compile.child import Runtimes
from eval.latency import LatencyResult
from eval.session import Built, Session, load_backend, open_session
from pipeline.errors import StageFailed
from quantize.artifact import ModelFolder

Batch = NDArray[np.float32]
Clock = Literal["wall", "cpu"]
Key = tuple[str, str, int]

_opened: dict[Key, Session] = {}  # of the process that this module runs in
_held: dict[Key, Batch] = {}


class RemoteSession(Session):
    """An engine opened in the process of its backend, where it stays; it is opened anew when that process had to be started again.

    Args:
        runtimes: the processes.
        path: the artifact.
        facts: about it; ``facts["backend"]`` says whose process it is.
        threads: CPU threads.

    Raises:
        StageFailed: the runtime cannot open it, or dies.

    """

    def __init__(self, runtimes: Runtimes, path: Path, facts: Mapping[str, Any], threads: int = 1) -> None:
        self._runtimes, self._use = runtimes, str(facts["backend"])
        self._key: Key = (str(path), json.dumps(dict(facts), sort_keys=True), threads)
        self._timed: Batch | None = None
        super().__init__(*runtimes.call(self._use, size_of, self._key))

    def time_ms(self, lq: Batch, clock: Clock = "wall") -> float:
        """Milliseconds of one ``run``; the batch crosses the pipe only when it is another one than the last time."""
        if lq is not self._timed:
            self._timed = None
        found = self._runtimes.call(self._use, time_once, self._key, lq if self._timed is None else None, clock)
        if found is None:  # another process than the last time
            found = self._runtimes.call(self._use, time_once, self._key, lq, clock)
        self._timed = lq
        return float(found)

    def _run(self, lq: Batch) -> Batch:
        out: Batch = self._runtimes.call(self._use, run_once, self._key, lq)
        return out


def size_of(key: Key) -> tuple[int, int]:
    """Fixed height and width of an engine, 0 for any size."""
    session = _session(key)
    return session.height, session.width


def run_once(key: Key, lq: Batch) -> Batch:
    """Run an engine."""
    return _session(key).run(lq)


def time_once(key: Key, lq: Batch | None, clock: Clock) -> float | None:
    """Milliseconds of a run on ``lq``, or on that of the last time; None when there was none in this process."""
    if lq is not None:
        _held[key] = lq
    if key not in _held:
        return None
    session, batch = _session(key), _held[key]
    now = time.process_time_ns if clock == "cpu" else time.perf_counter_ns
    start = now()
    session.run(batch)
    return (now() - start) / 1e6


def differences(use: str, built: Built, model: Path) -> list[str] | None:
    """``Backend.differences`` of a built artifact against a model folder."""
    return load_backend(use).differences(built, ModelFolder(model))


def _session(key: Key) -> Session:
    if key not in _opened:
        path, facts, threads = key
        _opened[key] = open_session(Path(path), json.loads(facts), threads)
    return _opened[key]


def in_turn(
    sessions: Mapping[str, RemoteSession],
    inputs: Mapping[str, Batch],
    *,
    min_seconds: float,
    min_count: int = 10,
    warmup: int = 2,
    clock: Clock = "wall",
) -> tuple[dict[str, LatencyResult], dict[str, str]]:
    """Time sessions in turn (A B C A B C ...), so that a drift of the machine meets them all; the others wait meanwhile.

    Args:
        sessions: by name.
        inputs: of each, float32 [1, 3, H, W] in [0, 1].
        min_seconds: least total time of the measured runs of each.
        min_count: least number of measured runs of each.
        warmup: runs of each before measuring.
        clock: "wall", which is latency; "cpu", the processor time of all threads of the runtime's process: on a busy machine the work of
            a single thread, though not its latency.

    Returns:
        Times of those that ran, and the reasons of those that did not.

    """
    times: dict[str, list[float]] = {name: [] for name in sessions}
    failed: dict[str, str] = {}
    rounds = -warmup
    while rounds < 0 or any(len(t) < min_count or sum(t) < min_seconds * 1e3 for t in times.values()):
        for name in list(times):
            try:
                ms = sessions[name].time_ms(inputs[name], clock)
            except StageFailed as e:
                failed[name] = e.what
                del times[name]
                continue
            if rounds >= 0:
                times[name].append(ms)
        rounds += 1
    return {name: LatencyResult(tuple(t)) for name, t in times.items()}, failed
