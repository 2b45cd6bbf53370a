"""What the pipeline's own student would cost on its target, pruned and not, before anything is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cost import cost_measurements
from pipeline.contract import Measurement
from pipeline.errors import UsageError
from pipeline.plan import Plan
from search.cost import folder_cost
from search.problem import Problem, make_problem
from search.space import SearchSpace

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Forecast:
    """The fastest way to run one form of the student, as the estimator sees it.

    what          "student", or the same "pruned evenly by" the stage's ratio
    measurements  params, macs, size, and the estimated latency_p50 and latency_p90
    budget_ms     what latency_p90 may be
    """

    what: str
    backend: str
    precision: str
    measurements: tuple[Measurement, ...]
    budget_ms: float

    @property
    def p90_ms(self) -> float:
        """Estimated p90 of one frame in ms."""
        return next(m.value for m in self.measurements if m.name == "latency_p90")


def forecasts(plan: Plan) -> Iterator[Forecast]:
    """Estimate the student with the weights that it starts from, then pruned; both quantized as planned.

    Pruned means by the stage's ratio, evenly: which layer loses how much is the outcome of measuring a trained network. A budget ("to")
    is what pruning will reach, or fail to: there is nothing to forecast.

    Raises:
        UsageError: the pipeline trains no student of ours, so there is nothing to build; or it cannot be pruned.
        StageFailed: it cannot be exported, or no backend of the target has rates.

    """
    from models.arch import build
    from train.determinism import seeded

    problem = make_problem(plan, SearchSpace(), steps=1)
    config: Any = problem.student.config
    with seeded(plan.seed):
        network = build(config.arch, config.config)
    yield _forecast(problem, "student", network, config.arch)
    settings: Any = problem.prune.config if problem.prune is not None else None
    if settings is not None and settings.to is None:
        what = f"student pruned evenly by {settings.ratio:g}"
        yield _forecast(problem, what, _pruned(network, settings.ratio, plan.target.channel_multiple), config.arch)


def possible(plan: Plan) -> str:
    """Empty when there is a student to estimate, else why there is none."""
    try:
        make_problem(plan, SearchSpace(), steps=1)
    except UsageError as e:
        return f"{e.where}: {e.what}"
    return ""


def _forecast(problem: Problem, what: str, network: nn.Module, arch: str) -> Forecast:
    from models.fold import fold_batchnorm
    from quantize.folder import write_folder
    from quantize.insert import prepare

    folded, target = fold_batchnorm(network), problem.plan.target
    with tempfile.TemporaryDirectory() as folder:
        ready = prepare(folded) if problem.quantize is not None else None
        written = write_folder(Path(folder) / "model", folded, arch, target.opset, ready)
        cost = folder_cost(written, target, tuple(cost_measurements(folded)))
    return Forecast(what, cost.backend, cost.precision, cost.measurements, problem.limits.budget_ms)


def _pruned(network: nn.Module, ratio: float, multiple: int) -> nn.Module:
    from prune.groups import Graph, cut
    from prune.importance import l1
    from prune.shrink import uniform

    return cut(network, uniform(Graph(network).groups, ratio, multiple), l1(network))[0]
