"""The search from beginning to end; called by ``pipeline/verbs/search.py``, which knows this module by name alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.contract import Artifact, Progress, Verdict
from pipeline.errors import GateFailed, StageFailed, UsageError
from pipeline.plan import Plan
from pipeline.runner import Runner, RunOptions, exit_error
from pipeline.store import write_atomic
from pipeline.yamlfile import load_yaml, validate
from search.front import Outcome, outcome, to_json, write_pipelines
from search.full import best, run_full
from search.plot import draw
from search.problem import Problem, make_problem
from search.space import SearchSpace
from search.study import finished, open_study
from search.table import show_front, show_runs
from search.workers import Order, work, work_together

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    target     name or path
    storage    URL; empty: a file in ``out``
    out        folder of the results; None: ``<workspace>/search/<pipeline>-<target>``
    space      file; None: the space that ships
    full       how many points of the front run in full
    """

    pipeline: Path
    target: str
    overrides: tuple[str, ...]
    workspace: Path
    trials: int
    storage: str
    study: str
    workers: int
    out: Path | None
    space: Path | None
    steps: int
    full: int
    as_json: bool


def search(request: Request, plan: Plan) -> None:
    """Search, write front.json, front.svg and pipeline files, run the best in full, and print.

    Args:
        request: the command line.
        plan: of the same pipeline file and target.

    Raises:
        UsageError: a pipeline, space or storage that does not fit.
        ToolchainMissing: Optuna or a package that the stages need is missing.
        GateFailed, StageFailed: a stage before the student failed, or no trial has a result.
    """
    if request.full > request.trials:
        raise UsageError("--full", f"{request.full} full runs of {request.trials} trials", "ask for no more full runs than trials")
    problem = make_problem(plan, _space(request.space), request.steps)
    folder = request.out or request.workspace / "search" / f"{plan.path.stem}-{plan.target.name}"
    storage = request.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
    study = open_study(problem, storage, request.study)  # refuses before anything is trained
    say: Callable[[str], None] = _drop if request.as_json else _say
    say(f"{len(finished(study))} of {request.trials} trials are done; study '{request.study}' in {storage}")
    if len(finished(study)) < request.trials:
        before = _before(problem, request, say)
        order = Order(
            pipeline=request.pipeline.resolve(),
            workspace=request.workspace,
            target=request.target,
            overrides=request.overrides,
            space=problem.space,
            steps=request.steps,
            storage=storage,
            study=request.study,
            folder=folder.resolve() / "trials",
            before=before,
            total=request.trials,
            quota=request.trials - len(finished(study)),
            quiet=request.as_json,
        )
        if request.workers == 1:
            work(order, problem)
        else:
            work_together(order, request.workers)
    found = _checked(outcome(finished(study)))
    _report(problem, request, {"name": request.study, "storage": storage}, found, folder, say)


def _space(path: Path | None) -> SearchSpace:
    return SearchSpace() if path is None else validate(SearchSpace, load_yaml(path), path.name)


def _before(problem: Problem, request: Request, say: Callable[[str], None]) -> dict[str, Artifact]:
    """Run or restore the stages that the searched ones build on; ``stage.output`` -> artifact."""
    plan = problem.plan
    needs = {need for id_ in problem.tail for need in problem.stage(id_).needs.values() if need[0] not in problem.tail}
    if not needs:
        return {}
    last = [s.id for s in plan.stages if s.id in {source for source, _ in needs}][-1]
    say(f"first, what the student builds on: up to stage '{last}'")
    result = Runner(plan, request.workspace, _run_progress(request.as_json), say).run(RunOptions(until=last))
    if result.error is not None:
        raise result.error
    unmet = exit_error(result.records)
    if unmet is not None and unmet[1].verdict is Verdict.FAILED:
        stage, gate = unmet
        what = f"gate '{gate.metric} {gate.rule} {gate.bound:g}' is not met, so no student would get past it"
        raise GateFailed(f"stage {stage}", what, f"see {result.path / 'report.html'}; mend the stage or its bound first")
    records = {r.stage.id: r for r in result.records}
    return {f"{source}.{output}": records[source].outputs[output] for source, output in sorted(needs)}


def _checked(found: Outcome) -> Outcome:
    if found.front:
        return found
    number, reason = found.unlucky[0] if found.unlucky else (0, "there is no trial")
    hint = "widen the search space (--space), or run more --trials"
    raise StageFailed("search", f"none of {len(found.unlucky)} trials has a result; trial {number}: {reason}", hint)


def _report(problem: Problem, request: Request, study: dict[str, str], found: Outcome, folder: Path, say: Callable[[str], None]) -> None:
    files = write_pipelines(problem, found, folder.resolve())
    write_atomic(folder / "front.svg", draw(problem, found))
    _write_front(folder, to_json(problem, study, found, files, ()))
    console = _console()
    if not request.as_json:
        show_front(problem, found, files, console)
    runs: list[dict[str, Any]] = []
    if request.full:
        points = best(found, request.full)
        runs = run_full(points, files, problem.plan.target, request.workspace, _run_progress(request.as_json), say)
    made = to_json(problem, study, found, files, runs)
    _write_front(folder, made)
    if request.as_json:
        print(json.dumps(made, indent=1))  # noqa: T201 - what --json asks for
        return
    if runs:
        show_runs(runs, problem.plan.target.name, console)
    say(f"front: {folder / 'front.json'}\nplot: {folder / 'front.svg'}")


def _write_front(folder: Path, made: dict[str, Any]) -> None:
    write_atomic(folder / "front.json", json.dumps(made, indent=1, allow_nan=False) + "\n")


def _console() -> Console:
    from rich.console import Console

    return Console()


def _run_progress(quiet: bool) -> Callable[[str, int, int, Path, Callable[..., None]], Progress]:
    from pipeline.progress import StageProgress

    def make(stage: str, number: int, total: int, log: Path, event: Callable[..., None]) -> Progress:
        return StageProgress(f"[{number}/{total}] {stage}", log, event, quiet=quiet)

    return make


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the verb's standard output


def _drop(line: str) -> None:
    del line
