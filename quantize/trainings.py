"""The trained contenders and the float control: who is trained from what, with how many steps and which seeds.

Every training gets the same budget: steps, crops, loss and learning rate. So what differs between them is what int8, or a clamp, does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from models import checkpoint
from pipeline.errors import UsageError
from quantize.contest import Contest
from quantize.guide import train_with_guide
from quantize.insert import quantizers, set_float, set_rounding
from quantize.live import enliven, settle
from quantize.settings import Qat
from train.recover import recover as recover_with

QAT, CLAMP, CONTROL = "qat", "clamp-ptq", "float-control"
_SEED_STRIDE = 1_000_003
_MOMENTUM = 0.001  # of live batch normalisation: at 0.01 the statistics of small crops cost more than int8 does


@dataclass(frozen=True, slots=True)
class Planned:
    """One training: its contender, which of its seeds (0 is the run's own), and its name."""

    contender: str
    index: int

    @property
    def name(self) -> str:
        """``qat``, ``qat-2``, ``qat-3`` and so on."""
        return self.contender if self.index == 0 else f"{self.contender}-{self.index + 1}"


def planned(contest: Contest) -> list[Planned]:
    """The trainings that the configuration asks for, the control last."""
    config = contest.config
    found = [Planned(name, i) for name in (QAT, CLAMP) if name in config.contenders for i in range(config.seeds)]
    return found + [Planned(CONTROL, 0)] * bool(found and config.control)


def settings_of(contest: Contest, count: int) -> Qat:
    """The settings of each of ``count`` trainings: equal shares of ``budget_steps``, at most ``recover.train.steps``.

    Raises:
        UsageError: the budget is less than one step each.
    """
    recover: Qat = contest.config.recover
    budget = contest.config.budget_steps
    if budget is None:
        return recover
    if budget < count:
        raise UsageError("quantize: budget_steps", f"{budget} is less than one step for each of {count} trainings", f"at least {count}")
    steps = min(recover.train.steps, budget // count)
    return recover.model_copy(update={"train": recover.train.model_copy(update={"steps": steps})})


def train_all(contest: Contest, start: nn.Module, plain_start: nn.Module) -> Iterator[tuple[Planned, nn.Module]]:
    """Every planned training and the network that it gave, calibrated ones ready to be rounded.

    Args:
        contest: the stage's input and settings.
        start: prepared network with the best calibrated scales, from which qat and clamp-ptq go on.
        plain_start: the same without equalisation, which has channels of its own: live batch normalisation, and a loss that compares
            them with those of another network, need the input's.
    """
    plan = planned(contest)
    settings = settings_of(contest, len(plan)) if plan else contest.config.recover
    for training in plan:
        if training.contender == CONTROL:
            network = copy.deepcopy(contest.folded)
        else:
            live = contest.config.batchnorm == "live" and training.contender == QAT
            network = copy.deepcopy(plain_start if live or settings.loss_weights.of_features() else start)
            if live and not enliven(network, contest.source.module, _MOMENTUM):
                contest.ctx.progress.log("quantize: the network has no batch normalisation left to keep alive")
            set_rounding(network, training.contender == QAT)
        _train(contest, network, training, settings)
        if training.contender != CONTROL:
            settle(network)
            if training.contender == CLAMP:
                _keep_clamps(network)
            set_rounding(network, True)
            set_float(network, ())
        yield training, network


def _keep_clamps(network: nn.Module) -> None:
    for quantizer in quantizers(network).values():
        quantizer.set_scale(quantizer.start_or_less.item(), learnable=quantizer.leader.log_step.requires_grad)


def _train(contest: Contest, network: nn.Module, training: Planned, settings: Qat) -> None:
    ctx, label = contest.ctx, training.name
    seed = ctx.seed + _SEED_STRIDE * training.index
    if settings.train.seed is not None and training.index:
        seeded = settings.train.model_copy(update={"seed": settings.train.seed + _SEED_STRIDE * training.index})
        settings = settings.model_copy(update={"train": seeded})
    rates = {"*.log_step": contest.config.step_lr}
    arguments = (contest.parts.train, settings, ctx.workdir / label, ctx.progress, seed)
    teacher = ctx.inputs.get("teacher")
    if teacher is None or contest.config.guide == "input":
        train_with_guide(network, contest.folded, *arguments, label=label, lr_scale=rates)
    else:
        answers = ctx.keep("teacher-cache")  # one for all trainings
        recover_with(network, checkpoint.load(teacher.path).module, *arguments, label=label, lr_scale=rates, cache_folder=answers)
