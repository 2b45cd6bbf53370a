"""What is searched: the choices of every dimension, how a trial picks from them, and the student that the picks describe.

Importing this loads neither torch nor optuna.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.student.config import Activation, BlockKind, Kernel, NetworkSpec, StudentConfig
from pipeline.target import Target

Params = Mapping[str, Any]
"""What a trial picked: width, growth ("1-2-3"), depth_<scale>, decoder_depth, block_<scale>, unshuffle, kernel, se, activation, and
prune and precision where the pipeline has such stages."""

SEARCHED = frozenset(
    {"widths", "depths", "decoder_depths", "kernels", "high_block", "low_block", "high_scales", "se_from", "activation", "unshuffle"}
)
"""Keys of the student that the picks replace; its other keys stay as the pipeline has them."""

T = TypeVar("T")
Choices = Annotated[tuple[T, ...], Field(min_length=1)]
Growth = Annotated[tuple[PositiveFloat, ...], Field(min_length=2, max_length=5)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
SearchedPrecision = Literal["int8", "float"]


class Picks(Protocol):
    """The part of ``optuna.Trial`` that is used here."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


class SearchSpace(BaseModel):
    """The choices of every dimension, and how they are searched. A dimension with one choice stands still."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    width: Choices[PositiveInt] = Field(default=(16, 24, 32, 48), description="channels of the finest scale")
    growth: Choices[Growth] = Field(
        default=((1, 2, 3), (1, 2, 4), (1, 2, 3, 4)),
        description="channels of each scale over those of the finest; as many numbers as the student has scales",
    )
    depth_fine: Choices[NonNegativeInt] = Field(default=(0, 1), description="encoder blocks of the finest scale")
    depth: Choices[PositiveInt] = Field(default=(1, 2, 3), description="encoder blocks of each coarser scale")
    decoder_depth: Choices[NonNegativeInt] = Field(default=(0, 1), description="decoder blocks of each scale")
    blocks: Choices[BlockKind] | None = Field(
        default=None, description="kinds of block, picked for each scale; null: the target's pays.blocks"
    )
    unshuffle: Choices[Literal[1, 2, 4]] = Field(default=(2, 4), description="pixel-unshuffle factor of the stem")
    kernel: Choices[Kernel] = Field(default=(3, 5), description="kernel size of the blocks")
    se: Choices[NonNegativeInt] = Field(default=(0, 1), description="how many of the coarsest scales have squeeze-and-excite")
    activation: Choices[Activation] | None = Field(default=None, description="null: the target's pays.activation")
    prune: Choices[Ratio] = Field(default=(0, 0.2, 0.4), description="ratio of the prune stage; 0 leaves the stage out")
    precision: Choices[SearchedPrecision] = Field(
        default=("int8", "float"), description="float: nothing is quantized, and the fastest float precision of the target runs"
    )
    sampler: Literal["tpe", "nsga2"] = Field(default="tpe", description="tpe learns from few trials; nsga2 wants hundreds")
    latency_factor: float = Field(
        default=1.2, ge=1, description="a trial whose estimate is over the target's budget by more than this factor is not trained"
    )

    @model_validator(mode="after")
    def _no_twins(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(set(value)) != len(value):
                raise ValueError(f"{name} names a choice twice")
        return self

    def on(self, target: Target, *, prune: bool, quantize: bool) -> SearchSpace:
        """The space with what it leaves to the target filled in, and without the dimensions that a pipeline has no stage for.

        Args:
            target: the device.
            prune: whether the pipeline prunes the student.
            quantize: whether it quantizes the student.
        """
        int8 = quantize and any("int8" in b.precisions for b in target.backends)
        found: dict[str, Any] = {
            "blocks": self.blocks or target.pays.blocks,
            "activation": self.activation or target.pays.activation,
            "prune": self.prune if prune else (0.0,),
            "precision": tuple(p for p in self.precision if p != "int8" or int8) or ("float",),
        }
        return SearchSpace.model_validate({**self.model_dump(), **found})


def suggest(space: SearchSpace, trial: Picks) -> dict[str, Any]:
    """Let a trial pick from a space that ``SearchSpace.on`` completed; see ``Params``."""
    pick = trial.suggest_categorical
    growth = {_growth_name(g): g for g in space.growth}
    params: dict[str, Any] = {"width": pick("width", space.width), "growth": pick("growth", tuple(growth))}
    for scale in range(len(growth[params["growth"]])):
        params[f"depth_{scale}"] = pick(f"depth_{scale}", space.depth if scale else space.depth_fine)
        params[f"block_{scale}"] = pick(f"block_{scale}", space.blocks or ())
    for name in ("decoder_depth", "unshuffle", "kernel", "se", "activation", "prune", "precision"):
        params[name] = pick(name, getattr(space, name))
    return params


def student_keys(params: Params, kept: Mapping[str, Any], multiple: int) -> dict[str, Any]:
    """The student's configuration: the picks, and the keys that the pipeline sets and nothing searches.

    Args:
        params: what a trial picked.
        kept: the pipeline's own keys, those of ``SEARCHED`` apart.
        multiple: widths are rounded to it.

    Raises:
        ValidationError: the keys that are kept do not fit, e.g. one ``expand`` per scale for another number of scales.
    """
    growth = [float(g) for g in params["growth"].split("-")]
    scales = len(growth)
    kinds = [params[f"block_{scale}"] for scale in range(scales)]
    keys = {
        **kept,
        "widths": [_rounded(params["width"] * g, multiple) for g in growth],
        "depths": [params[f"depth_{scale}"] for scale in range(scales)],
        "decoder_depths": params["decoder_depth"],
        "kernels": params["kernel"],
        "se_from": max(0, scales - params["se"]),
        "activation": params["activation"],
        "unshuffle": params["unshuffle"],
    }
    if sum(a != b for a, b in pairwise(kinds)) > 1:
        return {"network": _interleaved(keys, kinds).model_dump(mode="json")}
    keys |= {"high_block": kinds[0], "low_block": kinds[-1], "high_scales": kinds.count(kinds[0])}
    StudentConfig.model_validate(keys)
    return keys


def _interleaved(keys: Mapping[str, Any], kinds: Sequence[BlockKind]) -> NetworkSpec:
    """The exact network whose scales are of these kinds, which the short form (a kind for fine, one for coarse scales) cannot say."""
    alike = {k: StudentConfig.model_validate({**keys, "high_block": k, "low_block": k}).exact() for k in set(kinds)}
    first = alike[kinds[0]]
    coarse_first = list(reversed(kinds[:-1]))
    return first.model_copy(
        update={
            "encoder": tuple(alike[kind].encoder[scale] for scale, kind in enumerate(kinds)),
            "decoder": tuple(alike[kind].decoder[index] for index, kind in enumerate(coarse_first)),
        }
    )


def in_short(params: Params) -> str:
    """One line that a person can read: ``32x(1,2,3) depth 1,2,2+1 fused,fused,inverted k3 se1 relu unshuffle2 prune0.2 int8``."""
    scales = range(params["growth"].count("-") + 1)
    depths = ",".join(str(params[f"depth_{s}"]) for s in scales)
    kinds = ",".join(params[f"block_{s}"].partition("_")[0] for s in scales)
    head = f"{params['width']}x({params['growth'].replace('-', ',')}) depth {depths}+{params['decoder_depth']} {kinds}"
    pruned = f"prune{params['prune']:g}" if params["prune"] else "unpruned"
    tail = f"k{params['kernel']} se{params['se']} {params['activation']} unshuffle{params['unshuffle']} {pruned} {params['precision']}"
    return f"{head} {tail}"


def _growth_name(growth: Sequence[float]) -> str:
    return "-".join(f"{g:g}" for g in growth)


def _rounded(channels: float, multiple: int) -> int:
    return max(multiple, round(channels / multiple) * multiple)
