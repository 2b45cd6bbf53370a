"""What a rung of the ladder is to reach, and the plan that reaches it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from eval.cost import count_macs
from pipeline.contract import Progress, StageContext
from prune.allocate import Currency, solve
from prune.clock import Clock, clock_for
from prune.groups import Graph, Plan, Scores, cut
from prune.sensitivity import Table, fingerprint, measure_table, write_json
from prune.shrink import uniform

TABLE = "sensitivity.json"


@dataclass(frozen=True, slots=True)
class Goal:
    """A rung.

    name   for the report
    plan   widths; None: there is nothing to remove
    short  why the plan falls short of the budget, where it does
    note   what else the report should say of it
    """

    name: str
    plan: Plan | None
    short: str = ""
    note: str = ""


class Planner:
    """Plans for one network under the stage's settings.

    Args:
        ctx: the stage's context.
        network: its input.
        scores: importance of the network's channels.
    """

    def __init__(self, ctx: StageContext, network: nn.Module, scores: Scores) -> None:
        self.config, self.network, self.scores = ctx.config, network, scores
        self.multiple: int = ctx.target.channel_multiple
        self.groups = Graph(network).groups
        self.clock = clock_for(ctx.target, ctx.config, ctx.workdir)
        self._workdir = Path(ctx.workdir)
        self._key = _key(ctx, self.clock, self.multiple)
        self.table = _table(ctx, network, scores, self.clock, self.multiple, self._key)

    def goal(self, factor: float) -> Goal:
        """What ``factor`` (1: all) of the budget asks for; an interrupted stage finds the plan that it followed."""
        config, ratio = self.config, self.config.ratio * factor
        if not config.by_sensitivity:
            return Goal(f"ratio-{ratio:.2f}", uniform(self.groups, ratio, self.multiple))
        path = self._workdir / f"plan-{factor:g}.json"
        key = fingerprint(self._key, config.model_dump_json(include={"ratio", "to", "max_ratio", "seconds"}))
        if path.is_file() and (raw := json.loads(path.read_text(encoding="utf-8"))).pop("fingerprint") == key:
            return Goal(**raw)
        goal = self._to(factor) if config.to else self._as_cheap(f"ratio-{ratio:.2f}", uniform(self.groups, ratio, self.multiple))
        write_json(path, {"fingerprint": key, **asdict(goal)})
        return goal

    def _to(self, factor: float) -> Goal:
        """The cheapest plan that saves ``factor`` of what the budget asks for."""
        config = self.config
        saving = self._saving() * factor
        if saving <= 0:
            return Goal("unchanged", None)
        currency: Currency = "macs_saved" if config.to.kind == "macs" else "ms_saved"
        found = solve(self.table, currency, saving, self.multiple, config.max_ratio, self._saved_by(currency))
        most = f"{found.saved:.0%} can be saved at most under max_ratio {config.max_ratio:g}, {saving:.0%} is asked for"
        return Goal(self._name(saving), found.plan, "" if found.reached else most)

    def _as_cheap(self, name: str, plan: Plan) -> Goal:
        """The plan that saves as many milliseconds as ``plan`` where they cost least."""
        saved_by = self._saved_by("ms_saved")
        found = solve(self.table, "ms_saved", max(1e-3, saved_by(plan)), self.multiple, self.config.max_ratio, saved_by)
        if found.reached:
            return Goal(name, found.plan)
        return Goal(name, plan, note=f"shared out alike: nothing else within max_ratio {self.config.max_ratio:g} saves as much; ")

    def _saving(self) -> float:
        """The share of the network's cost that is to go."""
        to = self.config.to
        if to.kind == "speedup":
            return float(1 - 1 / to.speedup)
        return float(1 - to.macs / self.table.macs if to.kind == "macs" else 1 - to.latency_ms / self._whole_ms)

    @cached_property
    def _whole_ms(self) -> float:
        """The network by the clock that budgets go by, also where another one stood in for the table."""
        return self.table.ms if self.table.unstable is None else self.clock.saved(self.network, {}).base

    def _name(self, saving: float) -> str:
        kind, left = self.config.to.kind, 1 - saving
        if kind == "speedup":
            return f"speedup-{1 / left:.2f}"
        return f"macs-{self.table.macs * left:.3f}G" if kind == "macs" else f"latency-{self._whole_ms * left:.2f}ms"

    def _saved_by(self, currency: Currency) -> Callable[[Plan], float]:
        def macs(plan: Plan) -> float:
            return 1 - count_macs(cut(self.network, plan, self.scores)[0]) / 1e9 / self.table.macs

        def ms(plan: Plan) -> float:
            return self.clock.share(self.network, cut(self.network, plan, self.scores)[0])

        return macs if currency == "macs_saved" else ms


def _key(ctx: StageContext, clock: Clock, multiple: int) -> str:
    """Whatever decides the table."""
    settings = ctx.config.model_dump_json(include={"sensitivity", "importance", "tile"})
    return fingerprint(settings, multiple, ctx.inputs["model"].sha256, sorted(clock.conditions.items()))


def _table(ctx: StageContext, network: nn.Module, scores: Scores, clock: Clock, multiple: int, key: str) -> Table:
    """Measured once: an interrupted stage finds it in its folder. On training images: the calibration set judges what follows from it."""
    config, path = ctx.config, Path(ctx.workdir) / TABLE
    found = Table.read(path, key)
    if found is not None:
        ctx.progress.log("prune: sensitivity was measured already")
        return found
    progress: Progress = ctx.progress
    table = measure_table(network, scores, ctx.data["train"], clock, config.sensitivity, multiple, progress)
    table.write(path, key)
    return table
