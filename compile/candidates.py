"""What is worth building for a target, and building it: a candidate that cannot be built stays in the report with the reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compile.child import Child, ChildDied
from eval.session import BuildRequest, Built, load_backend
from pipeline.errors import StageFailed, ToolchainMissing
from pipeline.machine import cores
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    from pipeline.target import Target

HOST_CHOICES = (("onnxruntime", "int8"), ("onnxruntime", "fp32"), ("tvm", "int8"), ("tvm", "fp32"))
"""Built for this machine beside a board's, so that something runs here."""

BUILD_LOG = "build.log"
"""What a build printed, in its artifact's folder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One candidate: what to build, and with how many threads it is to run.

    use       backend: a folder of compile/, or an import path
    runs_on   "cpu" or "gpu" of the target: decides the rates of the estimate
    for_host  built for this machine's CPU instead of the target's
    beside    not asked for by the target: built so that something runs here
    threads   CPU threads; 1 on a GPU, whose artifacts have none
    """

    use: str
    precision: str
    runs_on: Literal["cpu", "gpu"] = "cpu"
    for_host: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False
    threads: int = 1

    @property
    def artifact(self) -> str:
        """Name of what is built: the same for every number of threads."""
        return f"{self.use.rpartition('.')[2]}-{self.precision}{'-host' * self.beside}"

    @property
    def name(self) -> str:
        """Unique among the plans of a target."""
        return self.artifact if self.threads == 1 else f"{self.artifact}-{self.threads}t"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A plan and what came of it: an artifact, or the reason why there is none; ``install`` is the line that brings what it lacks."""

    plan: Plan
    built: Built | None = None
    reason: str = ""
    install: str = ""


def thread_counts(target: Target, asked: Sequence[int] = ()) -> tuple[int, ...]:
    """Numbers of threads worth trying on the target's CPU: those asked for, else one and all of its fast cores."""
    return tuple(sorted(set(asked) or {1, target.cpu.cores}))


def plans_for(target: Target, backends: Sequence[str] = (), threads: Sequence[int] = ()) -> list[Plan]:
    """What the target file asks for: every backend in every precision it names, on a CPU with every number of threads.

    Args:
        target: the device.
        backends: of those that it names, by default all.
        threads: numbers of CPU threads, by default ``thread_counts``.

    """
    out = []
    for b in target.backends:
        if backends and b.use not in backends:
            continue
        for precision in b.precisions:
            for count in thread_counts(target, threads) if b.runs_on == "cpu" else (1,):
                out.append(Plan(b.use, precision, b.runs_on, target.is_host, b.options, threads=count))
    return out


def host_plans() -> list[Plan]:
    """What this machine runs beside the target's own candidates, the one it would rather have first."""
    return [Plan(use, precision, for_host=True, beside=True) for use, precision in HOST_CHOICES]


def build_all(plans: Sequence[Plan], model: Path, target: Target, workdir: Path, tile: int) -> Iterator[Attempt]:
    """Build candidates, then what this machine still lacks: ``HOST_CHOICES`` for a board, or where nothing else runs here.

    Args:
        plans: of ``plans_for``.
        model: folder of ``quantize.artifact``.
        target: the device.
        workdir: each artifact gets a folder in it, with the log of its build.
        tile: side in pixels of the tiles that artifacts of fixed size take on a CPU; on a GPU they take the target's whole frame.

    Returns:
        An attempt for each plan and each host choice, as they are done.

    """
    here = set()
    for attempt in build_parallel(plans, model, target, workdir, tile):
        if attempt.built is not None and attempt.built.facts["runs_here"]:
            here.add((attempt.plan.use, attempt.plan.precision))
        yield attempt
    if not target.is_host or not here:
        rest = [plan for plan in host_plans() if (plan.use, plan.precision) not in here]
        yield from build_parallel(rest, model, target, workdir, tile)


def build_parallel(plans: Sequence[Plan], model: Path, target: Target, workdir: Path, tile: int) -> Iterator[Attempt]:
    """Build artifacts, each in a process of its own, as many at a time as there are cores; a crash becomes that artifact's reason.

    Plans that differ in threads alone share one build.
    """
    wanted: dict[str, list[Plan]] = {}
    for plan in plans:
        wanted.setdefault(plan.artifact, []).append(plan)
    waiting = deque(wanted.values())
    running: dict[Connection, tuple[list[Plan], Child]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < cores():
                same = waiting.popleft()
                child = Child(f"build {same[0].artifact}", workdir / same[0].artifact / BUILD_LOG)
                running[child.pipe] = (same, child)
                _start(child, same[0], model, target, workdir, tile)
            for pipe in wait(list(running)):
                same, child = running.pop(pipe)  # type: ignore[index] # wait returns what it was given
                try:
                    attempt = _result(child, same[0])
                finally:
                    child.close()
                yield from (_with_threads(attempt, plan) for plan in same)
    finally:
        for _, child in running.values():
            child.close()


def _start(child: Child, plan: Plan, model: Path, target: Target, workdir: Path, tile: int) -> None:
    try:
        child.send(build, plan, model, target, workdir, tile)
    except ChildDied:
        return  # its pipe has ended: the result says why


def _result(child: Child, plan: Plan) -> Attempt:
    try:
        attempt: Attempt = child.receive()
    except ChildDied as e:
        return Attempt(plan, reason=f"not built: {e.what}")
    return attempt


def _with_threads(attempt: Attempt, plan: Plan) -> Attempt:
    built = attempt.built
    return replace(attempt, plan=plan, built=built and replace(built, facts={**built.facts, "threads": plan.threads}))


def build(plan: Plan, model: Path, target: Target, workdir: Path, tile: int) -> Attempt:
    """Build one candidate in this process; a missing toolchain or a failed build becomes its reason."""
    folder = ModelFolder(model)
    if plan.precision == "int8" and not folder.has_int8:
        return Attempt(plan, reason="not built: the network stayed in float")
    height, width = frame_of(target, folder.size_multiple) if plan.runs_on == "gpu" else (tile, tile)
    request = BuildRequest(model, plan.precision, height, width, target, workdir / plan.artifact, plan.for_host, plan.options)
    try:
        built = load_backend(plan.use).build(request)
    except ToolchainMissing as e:
        return Attempt(plan, reason=f"not built: {e.what}; {e.hint}", install=e.hint)
    except StageFailed as e:
        return Attempt(plan, reason=f"not built: {e.where}: {e.what}")
    return Attempt(plan, replace(built, facts=dict(built.facts)))


def frame_of(target: Target, multiple: int) -> tuple[int, int]:
    """Height and width of the target's frame, each rounded up to a multiple."""
    return (-(-target.frame.height // multiple) * multiple, -(-target.frame.width // multiple) * multiple)
