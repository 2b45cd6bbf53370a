"""What a candidate would cost on the target, before anything is trained: the same files and the same estimator as in a full run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.bundle import artifact_layers
from pipeline.contract import Better, Evidence, Kind, Measurement, Output, Progress
from pipeline.errors import StageFailed
from pipeline.plan import PlannedStage
from pipeline.target import Target
from quantize.artifact import ModelFolder
from search.candidate import Tree, planned
from search.digest import seed_of
from search.problem import Problem
from search.stages import artifact_of, run_short
from targets.estimator import estimate

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Cost:
    """The fastest way to run a network on the target, as the estimator sees it.

    ms       one frame of the target, p50
    size_mb  the ONNX file that the backend takes, in 10**6 bytes
    """

    ms: float
    size_mb: float
    backend: str
    precision: str
    measurements: tuple[Measurement, ...]

    def p90(self, target: Target) -> float:
        """Estimated p90 in ms: the estimate times the jitter that the target states."""
        return self.ms * target.jitter_p90


def cost_of(problem: Problem, tree: Tree, folder: Path, progress: Callable[[str], Progress]) -> Cost:
    """Cost of a candidate with untrained weights, pruned and quantized as its stages would.

    Args:
        problem: the pipeline and the target.
        tree: see ``search.candidate``.
        folder: where files are written.
        progress: stage id -> display; pruning takes a second or two.

    Raises:
        UsageError: the network cannot be built or pruned.
        StageFailed: it cannot be exported, or the target has no rates for any of its backends.
    """
    from eval.cost import cost_measurements
    from models.fold import fold_batchnorm
    from quantize.folder import write_folder
    from quantize.insert import prepare

    network, arch = _untrained(problem, tree)
    if problem.prune is not None and problem.prune.id in tree["stages"]:
        stage = planned(problem, tree, problem.prune.id)
        network = _pruned(problem, network, arch, stage, folder, progress(stage.id))
    folded = fold_batchnorm(network)
    in_float = problem.quantize is None or tree["stages"][problem.quantize.id].get("uses", problem.quantize.uses) != problem.quantize.uses
    written = write_folder(folder / "model", folded, arch, problem.plan.target.opset, None if in_float else prepare(folded))
    return folder_cost(written, problem.plan.target, tuple(cost_measurements(folded)))


def folder_cost(folder: ModelFolder, target: Target, counted: tuple[Measurement, ...]) -> Cost:
    """The fastest of the target's backends and precisions for a folder of ONNX files.

    Args:
        folder: what quantize hands on.
        target: the device.
        counted: params and macs of the network.

    Raises:
        StageFailed: the target has no backend that could run it.
    """
    found = min(_ways(folder, target), key=lambda way: way[0], default=None)
    if found is None:
        what = f"none of its backends runs {' or '.join(folder.facts.precisions)}"
        raise StageFailed(f"target {target.name}", what, "add such a precision to backends in the target file")
    ms, backend, precision, file, runs_on = found
    frame = {"frame": f"{target.frame.width}x{target.frame.height}", "target": target.name, "runs_on": runs_on}
    conditions = {**frame, "model": "roofline", "backend": backend, "precision": precision}
    size = file.stat().st_size / 1e6
    rows = (
        *(m for m in counted if m.name in ("params", "macs")),
        Measurement("size", size, "MB", Better.LOWER, 1, Evidence.HOST, {"file": file.name}),
        Measurement("latency_p50", ms, "ms", Better.LOWER, 1, Evidence.ESTIMATED, conditions),
        Measurement("latency_p90", ms * target.jitter_p90, "ms", Better.LOWER, 1, Evidence.ESTIMATED, conditions),
    )
    return Cost(ms, size, backend, precision, rows)


def _ways(folder: ModelFolder, target: Target) -> Iterator[tuple[float, str, str, Path, str]]:
    multiple = folder.size_multiple
    height, width = (-(-side // multiple) * multiple for side in (target.frame.height, target.frame.width))
    for choice in target.backends:
        rates = target.rates.get(choice.runs_on)
        for precision in choice.precisions if rates is not None else ():
            if rates is None or (precision == "int8" and not folder.has_int8):
                continue
            file = folder.qdq("s8") if precision == "int8" else folder.float
            rest = ("fp16" if "fp16" in choice.precisions else "fp32") if precision == "int8" else precision
            yield (
                estimate(artifact_layers(file, height, width, rest), rates, backend=choice.use).ms,
                choice.use,
                precision,
                file,
                choice.runs_on,
            )


def _untrained(problem: Problem, tree: Tree) -> tuple[nn.Module, str]:
    from models.arch import build
    from train.determinism import seeded

    config: Any = planned(problem, tree, problem.student.id).config
    with seeded(seed_of(problem.plan.seed, "search")):
        return build(config.arch, config.config), config.arch


def _pruned(problem: Problem, network: nn.Module, arch: str, stage: PlannedStage, folder: Path, progress: Progress) -> nn.Module:
    """With as many channels as the prune stage leaves. Which ones it drops depends on the weights; how many does not."""
    from models import checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "untrained.safetensors"
    checkpoint.save(path, network, arch, history=[])
    inputs = {"model": artifact_of(Output(Kind.CHECKPOINT, path))}
    done = run_short(problem.plan, stage, inputs, folder / stage.id, progress, factor=0, pairs=1)
    return checkpoint.load(done.outputs["model"].path).module
