"""Schedules by search, with MetaSchedule, for operators that neither a kernel nor a rule fits.

Schedules are drawn at random from MetaSchedule's design space (tiled, vectorised, parallel) and timed: on the board behind a tracker
where one is given, else on this machine, whose order then stands for that of a CPU that cannot be asked. What was timed is on record
(``compile.tvm.records``): an operator is searched for once, and an interrupted search goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from compile.tvm.host import host_dict
from compile.tvm.records import Asked, Records, Search
from compile.tvm.timing import alone, built, time_here

_SEED = 1

Timer = Callable[[Any, Any, float], float]
"""(candidate, target, seconds of the fastest so far) -> seconds; infinite for one that cannot be built or run."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: the operator, how many of its schedules are on record, and how many of those were timed just now."""

    name: str
    tried: int
    timed: int


def in_words(found: list[Found] | tuple[Found, ...], target: Any, search: Search) -> str:
    """What a search did, for the report; empty where there was none."""
    if not found:
        return ""
    here = "on this machine" if _runs_here(target) else f"on this machine, in place of {target.attrs['mcpu']}"
    tried = ", ".join(f"{f.name} {f.tried}" for f in found)
    return (
        f"schedules were searched for where no kernel fits, timed {f'on {search.rpc}' if search.rpc else here}: {tried} "
        f"({sum(f.timed for f in found)} of them now; at most {search.asked.schedules} each and {search.asked.seconds:g} s in all)"
    )


def search_module(mod: Any, names: list[str], target: Any, search: Search) -> list[Found]:
    """Schedule functions of a module in place.

    Args:
        mod: Relax module with plain TIR functions.
        names: of those to schedule.
        target: ``tvm.target.Target`` of a CPU.
        search: how.

    Returns:
        Those for which a schedule was found.

    Raises:
        StageFailed: no board behind the tracker, or it went away.

    """
    found, end = [], time.monotonic() + search.asked.seconds
    work = _work([mod[mod.get_global_var(name)] for name in names])
    with _timing(search, target) as (timer, measured):
        for i, name in enumerate(names):
            var = mod.get_global_var(name)
            records = Records(search.records, alone(mod[var]), measured)
            with records.locked():
                seconds = (end - time.monotonic()) * work[i] / sum(work[i:])
                timed = measure_schedules(records, measured, timer, search.asked, seconds)
                best = next((f for f in records.best() if measured is target or _builds(f, target)), None)
                if best is not None:
                    mod[var] = _as_before(best, mod[var])
                    found.append(Found(name, records.tried, timed))
    return found


def _work(functions: list[Any]) -> list[float]:
    """Parts of the time that functions may take: half of it by their arithmetic, half evenly."""
    from tvm.s_tir.analysis import estimate_tir_flops

    flops = [float(estimate_tir_flops(alone(f))) + 1 for f in functions]
    return [f + sum(flops) / len(flops) for f in flops]


@contextmanager
def _timing(search: Search, target: Any) -> Iterator[tuple[Timer, Any]]:
    """What times schedules, and the CPU that it does it on: ``target`` itself where that is possible."""
    import tvm

    if search.rpc:
        from compile.tvm.remote import RemoteSchedules

        with RemoteSchedules(search.rpc) as remote:
            yield remote, target
    else:
        yield time_here, target if _runs_here(target) else tvm.target.Target(host_dict())


def _as_before(scheduled: Any, plain: Any) -> Any:
    """A scheduled function under the attributes of the plain one."""
    for key in set(dict(scheduled.attrs)) - set(dict(plain.attrs)):
        scheduled = scheduled.without_attr(key)
    return scheduled.with_attr("tirx.is_scheduled", True)


def measure_schedules(records: Records, target: Any, timer: Timer, asked: Asked, seconds: float) -> int:
    """Time schedules until there are enough on record, or ``seconds`` are over and one at least can be run; how many that were."""
    if records.finished(asked):
        return 0
    timed, end = 0, time.monotonic() + seconds
    for candidate in _candidates(records.module, target, asked.schedules - records.tried, seed=_SEED + records.tried):
        records.add(candidate, target, timer(candidate, target, records.fastest))
        timed += 1
        if time.monotonic() > end and np.isfinite(records.fastest):
            break
    records.finish(asked)
    return timed


def _candidates(module: Any, target: Any, count: int, seed: int) -> Iterator[Any]:
    """Up to ``count`` schedules of a function, drawn as they are asked for."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    cores = tvm.target.Target({**_as_dict(target), "num-cores": 1})  # MetaSchedule insists on a number
    plain = (ms.ScheduleRule.create("llvm"), ms.Postproc.create("llvm"), ms.Mutator.create("llvm"))  # none that wants its own intrinsics
    space = ms.space_generator.PostOrderApply(sch_rules=plain[0], postprocs=plain[1], mutator_probs=plain[2])
    with _without_intrinsics():
        context = ms.TuneContext(module, target=cores, space_generator=space, search_strategy="replay-func", rand_state=seed, num_threads=1)
    context.pre_tuning(count, 1, context.generate_design_space(), ms.database.MemoryDatabase(), ms.cost_model.RandomModel())
    while drawn := context.generate_measure_candidates():
        yield from drawn
        context.notify_runner_results(drawn, [ms.runner.RunnerResult([1.0], None) for _ in drawn])  # it only counts them
    context.post_tuning()


@contextmanager
def _without_intrinsics() -> Iterator[None]:
    """Spare the import of tensor intrinsics that a context asks for: minutes of parsing, for rules that are not used here."""
    name = "tvm.s_tir.tensor_intrin"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]


def _as_dict(target: Any) -> dict[str, Any]:
    return {"kind": "llvm", **{k: target.attrs[k] for k in ("mtriple", "mcpu", "mattr") if k in target.attrs}}


def _runs_here(target: Any) -> bool:
    host = host_dict()
    return all(str(target.attrs.get(k, "")) == host[k] for k in ("mtriple", "mcpu"))


def _builds(func: Any, target: Any) -> bool:
    return built(func, target) is not None
