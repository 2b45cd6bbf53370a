"""The processes of one run: one alone, or those that torchrun started.

Of torchrun's processes the first leads: it alone plans what runs, and owns the store, the run directory, the gates, the reports, the
terminal and the exit code. The others follow: they take part in the stages that declare ``ranks="all"`` (trainings that the processes
share), and wait meanwhile. A stage that declares nothing runs in the first process as if there were no other, so that nothing it
measures and decides can differ between processes.

They speak through torchrun's own key-value store, which lives exactly as long as the launch::

    stage/<n>          the leader: take part in this stage; its workdir, inputs and log
    done/<n>/<rank>    a follower: did so
    failed             a follower: could not, and why
    end                the leader: the exit code
    bye/<rank>         a follower: leaves

Workdir and inputs are paths: with several machines, the workspace must lie where all of them see it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline import errors
from pipeline.contract import Artifact, Kind, StageContext
from pipeline.errors import EXIT_BUG, EXIT_OK, PipelineError, StageFailed, UsageError
from pipeline.plan import Plan, PlannedStage
from pipeline.stagerun import context_of, guarded

POLL = 0.1
"""Seconds between two looks at the store."""
GRACE = 3.0
"""Seconds that the leader has to fail with what a follower failed with; then it is taken to hang in a collective operation."""
FAREWELL = 30.0
"""Seconds that the leader waits for the others to leave after a success, and that they wait to be ended after a failure."""

_OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS")
_OF_TORCHRUN_TOO = ("TORCHELASTIC_", "GROUP_", "ROLE_")


class Solo:
    """A run of one process."""

    @contextlib.contextmanager
    def stage(self, stage: PlannedStage, context: StageContext, log: Path) -> Iterator[None]:
        """Around the run of a stage: nobody else takes part."""
        del stage, context, log
        yield


class Leader(Solo):
    """The first of several processes.

    Args:
        store: torchrun's.
        world: number of processes.
    """

    def __init__(self, store: Any, world: int) -> None:
        self.store, self.world = store, world
        self.abandon: Callable[[PipelineError], object] = _nothing_begun
        self._stages = itertools.count()
        self._settled = threading.Event()
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    @contextlib.contextmanager
    def stage(self, stage: PlannedStage, context: StageContext, log: Path) -> Iterator[None]:
        """Around the run of a stage: the others take part when it asks for them, and have finished at the end."""
        if stage.spec.ranks == "one":
            with alone():
                yield
            return
        number = next(self._stages)
        inputs = {name: _artifact_to_json(a) for name, a in context.inputs.items()}
        shared = str(context.shared) if context.shared is not None else None
        message = {"stage": stage.id, "workdir": str(context.workdir), "shared": shared, "inputs": inputs, "log": str(log)}
        self.store.set(f"stage/{number}", json.dumps(message))
        try:
            yield
        except BaseException:
            self._settled.set()  # the run ends with this error; a follower's, of the same cause, changes nothing
            raise
        self._await(f"done/{number}")

    def end(self, code: int) -> None:
        """Tell the others the exit code; after a success, wait until they have heard it."""
        self._settled.set()
        with contextlib.suppress(RuntimeError):  # as above; what the run ended with is not to be hidden
            self.store.set("end", str(code))
            if code == EXIT_OK:
                self._await("bye", FAREWELL)

    def _await(self, key: str, seconds: float = float("inf")) -> None:
        until = time.monotonic() + seconds
        for rank in range(1, self.world):
            while not self.store.check([f"{key}/{rank}"]) and time.monotonic() < until:
                time.sleep(POLL)  # one that died never says it: torchrun then ends this process, too

    def _watch(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone when torchrun is
            while not self.store.check(["failed"]):
                if self._settled.wait(POLL):
                    return
            if not self._settled.wait(GRACE):
                self._give_up(_error_from_json(json.loads(self.store.get("failed"))))

    def _give_up(self, error: PipelineError) -> None:
        """End the process although its main thread hangs in a collective operation, which no exception reaches."""
        code = EXIT_BUG
        try:
            try:
                self.abandon(error)
            except PipelineError as e:
                error = e
            sys.stdout.flush()
            sys.stderr.write(f"{error}\n")
            code = error.exit_code
        except Exception:  # noqa: BLE001 - nothing may keep this process alive
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            self.end(code)
            os._exit(code)


class Follower:
    """Another of several processes.

    Args:
        store: torchrun's.
        rank: its number, from 1.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank

    def follow(self, plan: Plan) -> None:
        """Take part in stages until the leader ends the run.

        Raises:
            PipelineError: what a stage failed with here.
        """
        for number in itertools.count():
            message = self._hear(f"stage/{number}")
            if message is None:
                return
            self._take_part(plan, json.loads(message))
            self.store.set(f"done/{number}/{self.rank}", "")

    def fail(self, error: PipelineError) -> None:
        """Tell the leader why this process cannot go on; the first to tell is heard."""
        self.store.compare_set("failed", "", json.dumps(_error_to_json(error)))

    def leave(self) -> int:
        """Wait for the end of the run and return its exit code."""
        code = int(self._hear("end") or EXIT_BUG)
        self.store.set(f"bye/{self.rank}", "")
        if code != EXIT_OK:
            time.sleep(FAREWELL)  # torchrun ends all when one fails: this one would cut the leader's words off
        return code

    def _hear(self, key: str) -> str | None:
        while not self.store.check([key]):
            if self.store.check(["end"]):
                return None
            time.sleep(POLL)
        return str(self.store.get(key).decode())

    def _take_part(self, plan: Plan, message: Mapping[str, Any]) -> None:
        stage = next((s for s in plan.stages if s.id == message["stage"]), None)
        workdir = Path(message["workdir"])
        if stage is None:
            what = f"its {plan.path} has no stage '{message['stage']}'"
            raise UsageError(f"process {self.rank}", what, "start the same pipeline file on every machine")
        if not workdir.is_dir():
            hint = "give a --workspace that every machine sees under the same path"
            raise UsageError(f"process {self.rank}", f"does not see {workdir}", hint)
        inputs = {name: _artifact_from_json(value) for name, value in message["inputs"].items()}
        shared = Path(message["shared"]) if message["shared"] is not None else None
        guarded(stage, context_of(plan, stage, inputs, workdir, Unheard(), shared), Path(message["log"]))


class Unheard:
    """The progress of a follower: the leader shows its own."""

    def __enter__(self) -> Unheard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close."""

    def log(self, text: str) -> None:
        """Nothing."""

    def update(self, label: str, done: int, total: int, **scalars: float) -> None:
        """Nothing."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hide torchrun from whatever runs in this block: a training in it uses this machine's devices as if started without."""
    hidden = {n: v for n, v in os.environ.items() if n in _OF_TORCHRUN or n.startswith(_OF_TORCHRUN_TOO)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _nothing_begun(error: PipelineError) -> None:
    raise error


def _artifact_to_json(artifact: Artifact) -> dict[str, Any]:
    fields = {"kind": str(artifact.kind), "path": str(artifact.path), "sha256": artifact.sha256, "bytes": artifact.bytes}
    return {**fields, "facts": dict(artifact.facts)}


def _artifact_from_json(value: Mapping[str, Any]) -> Artifact:
    return Artifact(Kind(value["kind"]), Path(value["path"]), value["sha256"], value["bytes"], value["facts"])


def _error_to_json(error: PipelineError) -> dict[str, str]:
    return {"type": type(error).__name__, "where": error.where, "what": error.what, "hint": error.hint}


def _error_from_json(value: Mapping[str, str]) -> PipelineError:
    kind: type[PipelineError] = getattr(errors, value["type"], StageFailed)
    return kind(value["where"], value["what"], value["hint"])
