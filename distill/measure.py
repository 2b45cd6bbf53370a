"""What both stages hand on: the checkpoint, the restored test images, and what was measured."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from distill.network import Made
from eval.cost import cost_measurements
from eval.quality import evaluate, placed_restorer
from models import checkpoint
from models.spec import size_multiple
from pipeline.contract import Kind, Measurement, Output, PairSource, StageContext, StageResult
from train.ranks import is_first_process


def hand_on(ctx: StageContext, made: Made) -> StageResult:
    """Write the checkpoint, restore the images of data role ``test``, measure both.

    Of several processes (torchrun) the first does so; the others, who took part in the training, return no outputs.
    """
    if not is_first_process():
        return StageResult({}, notes=(made.note,))
    path, samples = ctx.workdir / "model.safetensors", ctx.workdir / "samples"
    checkpoint.save(path, made.network, made.arch, made.config, made.history)
    measurements = [*_quality(made.network, ctx.data["test"], samples), *cost_measurements(made.network, path)]
    facts = {"arch": made.arch, "config": dict(made.config), "size_multiple": size_multiple(made.network)}
    outputs = {"model": Output(Kind.CHECKPOINT, path, facts), "samples": Output(Kind.SAMPLES, samples)}
    return StageResult(outputs, measurements, notes=(made.note,))


def _quality(network: nn.Module, source: PairSource, samples: Path) -> list[Measurement]:
    with placed_restorer(network) as restore:
        return evaluate(restore, source, samples).measurements()
