"""The cache key of a stage: everything that can change its bytes, and nothing else."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.code import code_digest, module_digests
from pipeline.contract import CONTRACT_VERSION
from pipeline.machine import machine_facts
from pipeline.plan import Plan, PlannedStage, canonical
from pipeline.store import hash_path
from pipeline.target import TargetView


def key_parts(plan: Plan, stage: PlannedStage, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What enters a stage's key, part by part.

    Args:
        plan: the plan.
        stage: one of its stages.
        inputs: input name -> SHA-256 of the artifact.

    A folder that a backend's options name counts as its text: the stage writes its records of tuning there.
    """
    spec = stage.spec
    return {
        "contract": CONTRACT_VERSION,
        "uses": stage.uses,
        "code": code_digest(stage.uses, (*spec.code, *spec.code_of(stage.config))),
        "config": _hashable(stage.config),
        "inputs": dict(inputs),
        "data": {role: plan.data[role].digest() for role in spec.data},
        "target": TargetView(plan.target, spec.reads_target).key(),
        "toolchain": {name: _version(name) for name in spec.toolchain},
        "seed": plan.seed,
        "machine": machine_facts() if spec.measures == "host" else None,
    }


def code_parts(stage: PlannedStage) -> dict[str, str]:
    """The modules behind the key's part ``code``: name -> 64 hex digits over its code."""
    return module_digests(stage.uses, (*stage.spec.code, *stage.spec.code_of(stage.config)))


def key_of(parts: Mapping[str, Any]) -> str:
    """64 hex digits over the parts."""
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def _hashable(config: BaseModel) -> Any:
    """The configuration as JSON, with each file replaced by its content's hash: moving a file changes nothing."""
    return {name: _plain(config, name, getattr(config, name)) for name in type(config).model_fields}


def _plain(config: BaseModel, name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return {"sha256": hash_path(value)}
    if isinstance(value, BaseModel):
        return _hashable(value)
    if isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value):
        return [_plain(config, name, v) for v in value]
    return config.model_dump(mode="json", include={name})[name]


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
