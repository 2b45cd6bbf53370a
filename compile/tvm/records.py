"""What is on record of an operator whose schedule is searched for: MetaSchedule's database, in a folder named after its content.

The name is a hash of all that a schedule's time depends on: the operator (TVM's structural hash), the CPU and TVM's version. Each
schedule is added as soon as it was timed, so that an interrupted search goes on; two builds that want the same operator wait in line.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_FAILED = 1e10
"""Seconds that stand for a schedule that cannot be built or run; MetaSchedule's own databases have the same."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How much is searched: schedules for each operator, and at most so many seconds for all operators of a network."""

    schedules: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Search:
    """How schedules are searched for.

    asked    schedules for each operator, and seconds for all operators of a network together
    records  folder of the records; created, or gone on with
    rpc      "host:port/key" of a tracker and a board; empty times on this machine
    """

    asked: Asked
    records: Path
    rpc: str = ""


class Records:
    """The records of one operator on one CPU.

    Args:
        folder: of all records; each operator has a folder in it.
        module: the operator alone, as "main".
        target: ``tvm.target.Target`` that its schedules are timed on.

    """

    def __init__(self, folder: Path, module: Any, target: Any) -> None:
        self.module = module
        self.folder = folder / key_of(module, target)
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the operator and read what is on record: a second build that wants the same operator waits, then finds it done."""
        from tvm.s_tir import meta_schedule as ms

        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for path in self._files():
                _drop_torn_line(path)
            self._database = ms.database.JSONDatabase(*map(str, self._files()))
            self._workload = self._database.commit_workload(self.module)
            yield

    def _files(self) -> tuple[Path, Path]:
        return self.folder / "database_workload.json", self.folder / "database_tuning_record.json"

    @property
    def tried(self) -> int:
        """Schedules on record, those that failed included."""
        return len(self._database)

    @property
    def fastest(self) -> float:
        """Seconds of the fastest schedule on record; infinite where there is none."""
        top = self._top(1)
        return float(top[0].run_secs[0]) if top else float("inf")

    def add(self, candidate: Any, target: Any, seconds: float) -> None:
        """Put a schedule on record, with its time or, where that is infinite, as one that failed."""
        from tvm.s_tir import meta_schedule as ms

        times = [min(seconds, _FAILED)]
        self._database.commit_tuning_record(
            ms.database.TuningRecord(candidate.sch.trace, self._workload, times, target, candidate.args_info)
        )

    def best(self) -> Iterator[Any]:
        """The scheduled functions on record that could be run, the fastest first."""
        from tvm.s_tir import Schedule

        for record in self._top(self.tried):
            schedule = Schedule(self.module)
            record.trace.apply_to_schedule(schedule, remove_postproc=False)
            yield schedule.mod["main"]

    def finished(self, asked: Asked) -> bool:
        """Whether as much as is asked for was searched already, in schedules or in time."""
        if self.tried >= asked.schedules:
            return True
        path = self.folder / "search.json"
        done = json.loads(path.read_text()) if path.exists() else {"schedules": 0, "seconds": 0}
        return bool(done["schedules"] >= asked.schedules and done["seconds"] >= asked.seconds)

    def finish(self, asked: Asked) -> None:
        """Keep that a search came to its end, be it for want of time."""
        temporary = self.folder / "search.tmp"
        temporary.write_text(json.dumps(asdict(asked)))
        temporary.replace(self.folder / "search.json")

    def _top(self, count: int) -> list[Any]:
        return [r for r in self._database.get_top_k(self._workload, max(1, count)) if float(r.run_secs[0]) < _FAILED]


def key_of(module: Any, target: Any) -> str:
    """The name of an operator's records: 64 hexadecimal digits, the same in every process."""
    import tvm_ffi

    cpu = [str(target.attrs.get(k, "")) for k in ("mtriple", "mcpu")] + [sorted(map(str, target.attrs.get("mattr", [])))]
    content = ["search", tvm_ffi.structural_hash(module), cpu, importlib.metadata.version("apache-tvm")]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process had begun to write: MetaSchedule refuses a file with half a line."""
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])
