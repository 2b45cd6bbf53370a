"""Prune, recover, judge; and prune less when that does not pay.

Every rung prunes the stage's input afresh, by a smaller ratio than the one before. A rung that is not faster is dropped before it is
trained, for training does not change the time. Below the last rung is the input itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from eval.latency import LatencyResult, speedup
from models import checkpoint
from pipeline.contract import StageContext
from pipeline.errors import StageFailed, UsageError
from prune.payoff import time_networks
from prune.quality import psnr_per_image
from prune.shrink import Shrink, shrink, widths
from train.recover import recover


@dataclass(frozen=True)
class Rung:
    """One ratio, tried: the network it gave, its times beside the input's, and the verdict."""

    name: str
    ratio: float
    network: nn.Module
    before: LatencyResult
    after: LatencyResult
    good: bool
    reason: str


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
        self.psnr = psnr_per_image(self.source.module, ctx.data["calibrate"])

    def rungs(self) -> list[Rung]:
        """Rungs from the asked ratio downwards, up to the first good one."""
        tried: list[Rung] = []
        for ratio in (self.config.ratio, *(self.config.ratio * factor for factor in self.config.retreat)):
            tried.append(self._try(ratio))
            self.ctx.progress.log(f"prune: {tried[-1].name}: {tried[-1].reason}")
            if tried[-1].good:
                break
        return tried

    def _try(self, ratio: float) -> Rung:
        name, config = f"ratio-{ratio:.2f}", self.config
        workdir = self.ctx.workdir / name
        probe = list(shrink(self.source.module, self._shrink(ratio)))[-1]
        self._require_rebuildable(probe)
        times = self._time(probe, workdir)
        gain = speedup(times["before"], times["after"])
        if not gain >= config.min_speedup:
            reason = f"{gain:.2f}x as fast as the input, at least {config.min_speedup:g}x is asked for: not trained"
            return Rung(name, ratio, probe, times["before"], times["after"], False, reason)
        network = self._recovered(ratio, workdir)
        if widths(network) != widths(probe):  # what recovery does to the weights can change a later round's choice
            times = self._time(network, workdir)
            gain = speedup(times["before"], times["after"])
        drop = drop_of(self.psnr, psnr_per_image(network, self.ctx.data["calibrate"]))
        good = drop <= config.max_drop
        verdict = "" if good else f", more than {config.max_drop:g} dB lost"
        reason = f"{gain:.2f}x as fast as the input, {-drop:+.2f} dB on the calibration set{verdict}"
        return Rung(name, ratio, network, times["before"], times["after"], good, reason)

    def _time(self, network: nn.Module, workdir: Path) -> dict[str, LatencyResult]:
        both = {"before": self.source.module, "after": network}
        return time_networks(both, workdir, self.config.tile, self.config.seconds)

    def _shrink(self, ratio: float) -> Shrink:
        c = self.config
        return Shrink(ratio, c.max_ratio, self.ctx.target.channel_multiple, c.global_ranking, c.rounds)

    def _recovered(self, ratio: float, workdir: Path) -> nn.Module:
        """Pruned and trained, a share of the steps after each round."""
        ctx, settings = self.ctx, self.config.recover
        share = settings.train.model_copy(update={"steps": max(1, settings.train.steps // self.config.rounds)})
        settings = settings.model_copy(update={"train": share})
        network = self.source.module
        for round_, pruned in enumerate(shrink(self.source.module, self._shrink(ratio)), 1):
            network = pruned
            label = f"prune ratio {ratio:.2f}" + (f" round {round_}" if self.config.rounds > 1 else "")
            recover(network, self.teacher, ctx.data["train"], settings, workdir / f"round-{round_}", ctx.progress, ctx.seed, label=label)
        return network

    def _require_rebuildable(self, network: nn.Module) -> None:
        arch, probe = self.source.arch, self.ctx.workdir / "probe.safetensors"
        try:
            checkpoint.save(probe, network, arch)
        except (StageFailed, UsageError, AttributeError) as e:
            what = f"a pruned {arch} cannot be rebuilt from its configuration ({getattr(e, 'what', e)})"
            raise UsageError("prune", what, "prune a student, whose configuration holds every width") from e
        probe.unlink()


def drop_of(before: list[float], after: list[float]) -> float:
    """How much lower the mean PSNR is, in dB."""
    return float(np.mean(before) - np.mean(after))
