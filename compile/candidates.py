"""What is worth building for a target, and building it: a candidate that cannot be built stays in the report with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eval.session import BuildRequest, Built, load_backend
from pipeline.errors import StageFailed, ToolchainMissing
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    from pipeline.target import Target

HOST_CHOICES = (("onnxruntime", "int8"), ("onnxruntime", "fp32"), ("tvm", "fp32"))
"""Built for this machine beside the target's, so that something runs here."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One thing to build.

    use       backend: a folder of compile/, or an import path
    runs_on   "cpu" or "gpu" of the target: decides the rates of the estimate
    for_host  built for this machine's CPU instead of the target's
    beside    not asked for by the target: built so that something runs here
    """

    use: str
    precision: str
    runs_on: Literal["cpu", "gpu"] = "cpu"
    for_host: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False

    @property
    def name(self) -> str:
        """Unique among the plans of a target."""
        return f"{self.use.rpartition('.')[2]}-{self.precision}{'-host' * self.beside}"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A plan and what came of it: an artifact, or the reason why there is none."""

    plan: Plan
    built: Built | None = None
    reason: str = ""


def plans_for(target: Target) -> list[Plan]:
    """What the target file asks for: every backend in every precision it names."""
    host = target.is_host
    return [Plan(b.use, precision, b.runs_on, host, b.options) for b in target.backends for precision in b.precisions]


def build_all(model: Path, target: Target, workdir: Path, tile: int) -> Iterator[Attempt]:
    """Build the target's candidates, then what this machine still lacks of ``HOST_CHOICES``.

    Args:
        model: folder of ``quantize.artifact``.
        target: the device.
        workdir: each candidate gets a folder in it.
        tile: side in pixels of the tiles that artifacts of fixed size take on a CPU; on a GPU they take the target's whole frame.

    """
    here = set()
    for plan in plans_for(target):
        attempt = build(plan, model, target, workdir, tile)
        if attempt.built is not None and attempt.built.facts["runs_here"]:
            here.add((plan.use, plan.precision))
        yield attempt
    for use, precision in HOST_CHOICES:
        if (use, precision) not in here:
            yield build(Plan(use, precision, for_host=True, beside=True), model, target, workdir, tile)


def build(plan: Plan, model: Path, target: Target, workdir: Path, tile: int) -> Attempt:
    """Build one candidate; a missing toolchain or a failed build becomes its reason."""
    folder = ModelFolder(model)
    if plan.precision == "int8" and not folder.has_int8:
        return Attempt(plan, reason="not built: the network stayed in float")
    height, width = frame_of(target, folder.size_multiple) if plan.runs_on == "gpu" else (tile, tile)
    request = BuildRequest(model, plan.precision, height, width, target, workdir / plan.name, plan.for_host, plan.options)
    try:
        built = load_backend(plan.use).build(request)
    except ToolchainMissing as e:
        return Attempt(plan, reason=f"not built: {e.what}; {e.hint}")
    except StageFailed as e:
        return Attempt(plan, reason=f"not built: {e.where}: {e.what}")
    return Attempt(plan, replace(built, facts=dict(built.facts)))


def frame_of(target: Target, multiple: int) -> tuple[int, int]:
    """Height and width of the target's frame, each rounded up to a multiple."""
    return (-(-target.frame.height // multiple) * multiple, -(-target.frame.width // multiple) * multiple)
