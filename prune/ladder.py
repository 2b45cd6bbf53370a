"""Prune, recover, judge; and prune less when that does not pay.

Every rung prunes the stage's input afresh, by less than the one before. A rung that is not faster is dropped before it is trained, for
training does not change the time. Below the last rung is the input itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from eval.latency import LatencyResult, speedup
from eval.payoff import time_networks
from models import checkpoint
from models.silent import silence
from pipeline.contract import StageContext
from pipeline.errors import StageFailed, UsageError
from prune.config import Recovery
from prune.goal import Goal, Planner
from prune.groups import Plan, Scores, cut
from prune.importance import ranking
from prune.quality import Loss, loss_between, quality_of
from prune.recentre import frozen_norms, middles, recentre
from prune.shrink import partway
from train.recover import recover


@dataclass(frozen=True)
class Rung:
    """One goal, tried: the network it gave, its times beside the input's, what it lost (None: not trained), and the verdict."""

    name: str
    network: nn.Module
    before: LatencyResult
    after: LatencyResult
    good: bool
    reason: str
    loss: Loss | None = None
    plan: Plan = field(default_factory=dict)


class Climb:
    """The stage's input and what its rungs share.

    Args:
        ctx: the stage's context.
    """

    def __init__(self, ctx: StageContext) -> None:
        self.ctx, self.config = ctx, ctx.config
        self.source = checkpoint.load(ctx.inputs["model"].path)
        teacher = ctx.inputs.get("teacher")
        self.teacher = checkpoint.load(teacher.path).module if teacher else None
        self.rank = ranking(self.config.importance, ctx.data["train"], self.teacher, self.config.recover, ctx.seed)
        self.scores = self.rank(self.source.module)
        self._require_rebuildable()
        self.planner = Planner(ctx, self.source.module, self.scores)
        self.images = middles(ctx.data["train"], self.config.recentre, self.source.module)[0] if self.config.recentre else None
        self.quality = quality_of(self.source.module, ctx.data["calibrate"])

    def rungs(self) -> list[Rung]:
        """Rungs from the asked budget downwards, up to the first good one."""
        tried: list[Rung] = []
        for factor in (1.0, *self.config.retreat):
            tried.append(self._try(self.planner.goal(factor)))
            self.ctx.progress.log(f"prune: {tried[-1].name}: {tried[-1].reason}")
            if tried[-1].good:
                break
        return tried

    def _try(self, goal: Goal) -> Rung:
        config = self.config
        workdir = Path(self.ctx.workdir) / goal.name
        probe = cut(self.source.module, goal.plan, self.scores)[0] if goal.plan else self.source.module
        times = time_networks({"before": self.source.module, "after": probe}, workdir, config.tile, config.seconds)
        both = times["before"], times["after"]
        if goal.plan is None:
            return Rung(goal.name, self.source.module, both[0], both[0], True, "the budget is met already: nothing is pruned")
        gain = speedup(*both)
        if goal.short or not gain >= config.min_speedup:
            why = goal.short or f"{gain:.2f}x as fast as the input, at least {config.min_speedup:g}x is asked for"
            return Rung(goal.name, probe, *both, False, f"{why}: not trained")
        network = self.recovered(goal, workdir)
        loss = loss_between(self.quality, quality_of(network, self.ctx.data["calibrate"]))
        wrong = complaint(loss, config.max_drop, config.max_drop_worst)
        return Rung(goal.name, network, *both, not wrong, f"{goal.note}{gain:.2f}x as fast as the input, {loss}{wrong}", loss, goal.plan)

    def recovered(self, goal: Goal, workdir: Path) -> nn.Module:
        """Pruned and trained, a share of the steps after each round; each round ranks the channels afresh and has crops of its own.

        Ends with no channel that batch normalisation amplifies (``models.silent``): where training gave one its factor back, it goes again.
        """
        ctx, config = self.ctx, self.config
        network = self.source.module
        for round_ in range(1, config.rounds + 1):
            plan = partway(self.planner.groups, goal.plan or {}, round_ / config.rounds, self.planner.multiple)
            scores = self.rank(network) if round_ > 1 else self.scores
            network = self.cut_to(network, plan, scores)
            settings = share_of(config.recover, round_, config.rounds, ctx.seed)
            label = f"prune {goal.name}" + (f" round {round_}" if config.rounds > 1 else "")
            with frozen_norms(network, settings.freeze_norm):
                recover(
                    network,
                    self.teacher,
                    ctx.data["train"],
                    settings,
                    workdir / f"round-{round_}",
                    ctx.progress,
                    ctx.seed,
                    label=label,
                    cache_folder=ctx.keep("teacher-cache"),  # one for all rungs and rounds, and for other stages with this teacher
                )
            self._hold_silent(network, "after")
        return network

    def cut_to(self, network: nn.Module, plan: Plan, scores: Scores) -> nn.Module:
        """A pruned copy with the means of its layers put back.

        Where the statistics stay as they are, it is known by now which channels will be held silent: training can make up for them.
        """
        pruned, kept = cut(network, plan, scores)
        if self.config.recover.freeze_norm:
            self._hold_silent(pruned, "before")
        if self.images is not None:
            recentre(pruned, network, kept, self.images)
        return pruned

    def _hold_silent(self, network: nn.Module, when: str) -> None:
        count = silence(network)
        if count:
            self.ctx.progress.log(f"prune: {count} channels that training hardly heard are held silent {when} the recovery")

    def _require_rebuildable(self) -> None:
        """A network at half its widths must be rebuilt from its configuration; known before anything is measured or trained."""
        arch, probe = self.source.arch, Path(self.ctx.workdir) / "probe.safetensors"
        halved = cut(self.source.module, {name: max(1, len(scores) // 2) for name, scores in self.scores.items()}, self.scores)[0]
        try:
            checkpoint.save(probe, halved, arch)
        except (StageFailed, UsageError, AttributeError) as e:
            what = f"a pruned {arch} cannot be rebuilt from its configuration ({getattr(e, 'what', e)})"
            raise UsageError("prune", what, "prune a student, whose configuration holds every width") from e
        probe.unlink()


def share_of(recovery: Recovery, round_: int, rounds: int, seed: int) -> Recovery:
    """The recovery after round ``round_`` of 1 to ``rounds``: a share of the steps, all shares together being the whole; a seed each."""
    train = recovery.train.seeded(seed)
    steps = train.steps * round_ // rounds - train.steps * (round_ - 1) // rounds
    update = {"steps": max(1, steps), "seed": (train.seed or 0) + round_ - 1}
    return recovery.model_copy(update={"train": train.model_copy(update=update)})


def complaint(loss: Loss, max_drop: float, max_drop_worst: float) -> str:
    """Why a loss is too much, as the end of a sentence; empty when it is not. NaN is too much."""
    if not loss.mean <= max_drop:
        return f", more than {max_drop:g} dB lost"
    if not loss.worst <= max_drop_worst:
        return f", more than {max_drop_worst:g} dB lost on '{loss.image}'"
    return ""
