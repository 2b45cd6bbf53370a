"""What can be said of a student before it is trained: whether it can be exported, and what in it fights the target."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from distill.settings import DistillConfig
from eval.fitness import misfits
from models.arch import build
from models.export import export_onnx
from models.fold import fold_batchnorm
from models.spec import size_multiple
from pipeline.contract import Problem
from pipeline.plan import Plan, PlannedStage
from train.determinism import seeded


def student(stage: PlannedStage, plan: Plan) -> Sequence[Problem]:
    """Build the stage's network, untrained unless its weights are loaded, export it for the target and look at the graph.

    Raises:
        UsageError: the network cannot be built or loaded.
        StageFailed: it cannot be exported in the target's opset.

    """
    from distill.network import loaded

    config = cast(DistillConfig, stage.config)
    with seeded(plan.seed):
        network = loaded(config).network if config.weights else build(config.arch, config.config)
    folded = fold_batchnorm(network)
    where = f"{plan.path.name}: stages.{stage.id}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        export_onnx(folded, path, plan.target.opset)
        return misfits(path, plan.target, where, size_multiple(folded))
