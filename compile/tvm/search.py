"""Schedules by search, with MetaSchedule, for operators that neither a kernel nor a rule fits.

The search draws schedules at random from MetaSchedule's design space (tiled, vectorised, parallel). On this machine's own CPU each is
timed and the fastest kept; for another CPU the first that can be built is taken: any of them is far from plain loops. The draw is seeded.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

_SEED = 1
_ROUNDS = 5


def search_module(mod: Any, names: list[str], target: Any, searches: int) -> list[str]:
    """Schedule functions of a module in place.

    Args:
        mod: Relax module with plain TIR functions.
        names: of those to schedule.
        target: ``tvm.target.Target`` of a CPU.
        searches: schedules to try for each.

    Returns:
        The names of those for which a schedule was found.

    """
    found = []
    for name in names:
        var = mod.get_global_var(name)
        best = _best(mod[var], target, searches)
        if best is not None:
            mod[var] = _as_before(best, mod[var])
            found.append(name)
    return found


def _as_before(scheduled: Any, plain: Any) -> Any:
    """A scheduled function under the attributes of the plain one."""
    for key in set(dict(scheduled.attrs)) - set(dict(plain.attrs)):
        scheduled = scheduled.without_attr(key)
    return scheduled.with_attr("tirx.is_scheduled", True)


def _best(func: Any, target: Any, searches: int) -> Any | None:
    here = _runs_here(target)
    fastest, best = float("inf"), None
    for candidate in _candidates(func, target, searches):
        seconds = _seconds(candidate, target, run=here)
        if seconds < fastest:
            fastest, best = seconds, candidate
        if best is not None and not here:
            break
    return best


def _candidates(func: Any, target: Any, count: int) -> Iterator[Any]:
    """Up to ``count`` schedules of a function."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    cores = tvm.target.Target({**_as_dict(target), "num-cores": 1})  # MetaSchedule insists on a number
    plain = (ms.ScheduleRule.create("llvm"), ms.Postproc.create("llvm"), ms.Mutator.create("llvm"))  # none that wants its own intrinsics
    space = ms.space_generator.PostOrderApply(sch_rules=plain[0], postprocs=plain[1], mutator_probs=plain[2])
    with _without_intrinsics():
        context = ms.TuneContext(
            module, target=cores, space_generator=space, search_strategy="replay-func", rand_state=_SEED, num_threads=1
        )
    random = ms.cost_model.RandomModel()
    context.pre_tuning(count, count, context.generate_design_space(), ms.database.MemoryDatabase(), random)
    for candidate in context.generate_measure_candidates() or []:
        yield candidate.sch.mod["main"]
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
    from compile.tvm.backend import host_dict

    host = host_dict()
    return all(str(target.attrs.get(k, "")) == host[k] for k in ("mtriple", "mcpu"))


def _seconds(func: Any, target: Any, run: bool) -> float:
    """Time of a scheduled function; infinite when TVM cannot build it, 0 when it is only built."""
    import tvm

    try:
        library = tvm.compile(tvm.IRModule({"main": func}), target=target)
    except (RuntimeError, ValueError, TypeError):  # a schedule may ask for what the code generator cannot do
        return float("inf")
    if not run:
        return 0.0
    rng = np.random.default_rng(0)
    given = [tvm.runtime.tensor(rng.random(tuple(int(d) for d in p.shape)).astype(str(p.dtype))) for p in func.params]
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        library["main"](*given)
        times.append(time.perf_counter() - start)
    return float(np.percentile(times, 25))
