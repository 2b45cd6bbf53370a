"""pipeline.yaml as typed, frozen configuration."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.contract import Evidence
from pipeline.errors import UsageError, did_you_mean
from pipeline.yamlfile import load_yaml, parse_yaml, validate

RULES = ("at_least", "at_most", "drop_at_most", "gain_at_least")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Gate(_Model):
    """A bound that a stage's measurement must meet: exactly one of the four rules."""

    metric: str = Field(description="name of a measurement of this stage, e.g. psnr, size, latency_p90")
    at_least: float | str | None = Field(default=None, description="lower bound; a number or target.<field>")
    at_most: float | str | None = Field(default=None, description="upper bound; a number or target.<field>")
    drop_at_most: float | None = Field(default=None, description="how much worse than the stage named by 'against' it may be")
    gain_at_least: float | None = Field(default=None, description="how much better than the stage named by 'against' it must be")
    against: str | None = Field(default=None, description="id of the stage to compare with")
    unit: str | None = Field(default=None, description="unit of the bound; must be the measurement's own")
    evidence: Evidence | None = Field(default=None, description="where the number must come from; any when left out")
    statistic: Literal["mean", "ci", "worst"] = Field(
        default="mean",
        description="for drop and gain: the mean, the pessimistic end of a paired 95 % bootstrap interval, or the worst single image",
    )

    @property
    def rule(self) -> str:
        """Which of the four rules this gate uses."""
        return next(r for r in RULES if getattr(self, r) is not None)

    @field_validator("at_least", "at_most")
    @classmethod
    def _known_reference(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, str) and not value.startswith("target."):
            raise ValueError("a bound is a number or target.<field>")
        return value

    @field_validator(*RULES)
    @classmethod
    def _finite(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a bound is a finite number")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        given = [r for r in RULES if getattr(self, r) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(RULES)}")
        relative = given[0] in ("drop_at_most", "gain_at_least")
        if relative != (self.against is not None):
            raise ValueError("'against' goes with drop_at_most and gain_at_least, and only with them")
        return self


class StageEntry(_Model):
    """One stage of the file."""

    uses: str | None = Field(default=None, description="import path of the stage's module; '<id>.stage' when left out")
    needs: dict[str, str] = Field(default_factory=dict, description="input name: stage.output")
    config: dict[str, Any] = Field(default_factory=dict, alias="with", description="the stage's own configuration")
    gates: tuple[Gate, ...] = Field(default=(), description="bounds judged when the stage is done")

    @field_validator("needs")
    @classmethod
    def _reference(cls, value: dict[str, str]) -> dict[str, str]:
        for ref in value.values():
            if ref.count(".") != 1:
                raise ValueError(f"'{ref}' is not of the form stage.output")
        return value


class PipelineFile(_Model):
    """The whole file."""

    version: Literal[1] = Field(description="version of this format")
    seed: int = Field(default=0, ge=0, description="seed of everything random")
    data: dict[str, dict[str, Any]] = Field(description="role: {source: reader, ...the reader's own options}")
    stages: dict[str, StageEntry] = Field(min_length=1, description="id: stage")

    @field_validator("stages")
    @classmethod
    def _plain_ids(cls, value: dict[str, StageEntry]) -> dict[str, StageEntry]:
        for name in value:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"stage id '{name}' has characters other than letters, digits, '-' and '_'")
        return value


def load_pipeline(path: Path, overrides: tuple[str, ...] = ()) -> PipelineFile:
    """Read and validate a pipeline file.

    Args:
        path: the YAML file.
        overrides: ``dotted.path=value`` items; the value is read as YAML, and the path must exist up to its last key.

    Raises:
        UsageError: anything wrong with the file or an override.

    """
    raw = load_yaml(path)
    for item in overrides:
        raw = _override(raw, item)
    return validate(PipelineFile, raw, path.name)


def _override(raw: Any, item: str) -> Any:
    where = f"--set {item}"
    dotted, eq, text = item.partition("=")
    if not eq or not dotted:
        raise UsageError(where, "is not of the form path=value", "e.g. --set stages.prune.with.ratio=0.3")
    raw = copy.deepcopy(raw)
    *parents, last = dotted.split(".")
    node = raw
    for i, part in enumerate(parents):
        creatable = part in ("with", "needs", "gates") or "with" in parents[:i]
        if creatable and isinstance(node, dict):
            node.setdefault(part, {})
        node = _step(node, part, where, ".".join(parents[: i + 1]))
    if isinstance(node, list):
        node[_index(node, last, where, dotted)] = parse_yaml(text, where)
    elif isinstance(node, dict):
        node[last] = parse_yaml(text, where)
    else:
        raise UsageError(where, f"'{'.'.join(parents)}' is {node!r}, which has no keys", "name a key of a mapping")
    return raw


def _step(node: Any, part: str, where: str, dotted: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, where, dotted)]
    if not isinstance(node, dict) or part not in node:
        known = [str(k) for k in node] if isinstance(node, dict) else []
        raise UsageError(where, f"there is no '{dotted}' in the file", did_you_mean(part, known))
    return node[part]


def _index(node: list[Any], part: str, where: str, dotted: str) -> int:
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise UsageError(where, f"'{dotted}' does not name an item of a list of {len(node)}", f"use an index from 0 to {len(node) - 1}")
