"""Workers: one in this process, or several processes that share the study through its storage."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from pipeline.contract import Progress
from pipeline.errors import PipelineError, StageFailed
from search.problem import Problem, make_problem
from search.proxy import Inputs
from search.space import SearchSpace
from search.study import finished, open_study
from search.trial import Trials


@dataclass(frozen=True)
class Order:
    """All that a worker needs, picklable.

    target   name or path, as on the command line
    total    trials that the study is to have in the end
    quota    trials that this worker runs at most
    folder   workdirs and logs of the trials
    threads  CPU threads of a worker; 0 leaves torch's choice
    """

    pipeline: Path
    workspace: Path
    target: str
    overrides: tuple[str, ...]
    space: SearchSpace
    steps: int
    storage: str
    study: str
    folder: Path
    before: Inputs
    total: int
    quota: int
    quiet: bool
    threads: int = 0


def work(order: Order, problem: Problem, bars: bool = True) -> None:
    """Run trials until the quota or the study's total is reached.

    Args:
        order: what to do.
        problem: the same as ``order`` describes.
        bars: show the stages' progress.

    Raises:
        ToolchainMissing, KeyboardInterrupt: as ``search.trial.Trials.run``.
    """
    study = open_study(problem, order.storage, order.study)
    say = _drop if order.quiet else _say
    trials = Trials(problem, study, order.before, order.folder, _progress(order.quiet or not bars), say)
    for _ in range(order.quota):
        if len(finished(study)) >= order.total:
            break
        trials.run()


def work_together(order: Order, workers: int) -> None:
    """Share an order among processes.

    Raises:
        PipelineError: what the first worker that failed raised.
        KeyboardInterrupt: after every worker has put its trial back.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    shares = [(order.quota + i) // workers for i in range(workers)]
    started = [_start(replace(order, quota=share, threads=threads)) for share in shares if share]
    try:
        errors = [_outcome(process, pipe) for process, pipe in started]
    except KeyboardInterrupt:
        for process, _ in started:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGINT)
        for process, _ in started:
            process.join()
        raise
    for error in errors:
        if error is not None:
            raise error


def _start(order: Order) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work_alone, args=(order, there))
    process.start()
    there.close()
    return process, here


def _outcome(process: BaseProcess, pipe: Connection) -> PipelineError | None:
    process.join()
    try:
        error: PipelineError | None = pipe.recv()
    except EOFError:
        hint = "the same command goes on; use fewer --workers if memory is short"
        return StageFailed("search", f"a worker died with exit code {process.exitcode}", hint)
    return error


def _work_alone(order: Order, pipe: Connection) -> None:
    """A worker process: reports a PipelineError or None."""
    from pipeline.calibration import refined
    from pipeline.config import load_pipeline
    from pipeline.plan import make_plan
    from pipeline.target import load_target

    try:
        import torch

        torch.set_num_threads(order.threads)
        target = refined(load_target(order.target), order.workspace)
        plan = make_plan(order.pipeline, load_pipeline(order.pipeline, order.overrides), target)
        work(order, make_problem(plan, order.space, order.steps), bars=False)
        pipe.send(None)
    except PipelineError as e:
        pipe.send(e)
    except KeyboardInterrupt:
        pipe.send(None)


def _progress(quiet: bool) -> Callable[[int, str, Path], Progress]:
    from pipeline.progress import StageProgress

    def make(number: int, stage: str, log: Path) -> Progress:
        return StageProgress(f"[trial {number}] {stage}", log, _no_event, quiet=quiet)

    return make


def _no_event(*_: Any, **__: Any) -> None:
    """Trials have no events file: the study's storage remembers them."""


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a worker speaks to standard output


def _drop(line: str) -> None:
    del line
