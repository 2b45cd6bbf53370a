"""Who teaches: one network, or the mean of several."""

from __future__ import annotations

from torch import nn

from models import checkpoint
from pipeline.contract import StageContext
from pipeline.errors import UsageError
from train.teachers import Ensemble


def teacher_of(ctx: StageContext) -> nn.Module:
    """The stage's teacher: the network of input ``teacher``, or the mean of all that are given, the features being the first's.

    Raises:
        UsageError: not one of ``teacher_weights`` for each teacher, or none above 0; a checkpoint that cannot be read.
    """
    names = [name for name in ("teacher", "teacher2", "teacher3") if name in ctx.inputs]
    weights = ctx.config.teacher_weights
    if weights and len(weights) != len(names):
        what = f"{len(weights)} for {len(names)} teachers ({', '.join(names)})"
        raise UsageError("distill: teacher_weights", what, "give one for each, or leave teacher_weights out")
    networks = [checkpoint.load(ctx.inputs[name].path).module for name in names]
    return networks[0] if len(networks) == 1 else Ensemble(networks, weights).eval()
