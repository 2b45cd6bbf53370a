"""Which part of a stage's key changed since a run: the parts that the run kept, against those of today."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError, did_you_mean
from pipeline.key import code_parts, key_of, key_parts
from pipeline.plan import Plan, PlannedStage, canonical
from pipeline.runs import list_runs, read_json, stage_folder
from pipeline.store import Store

ABSENT = object()
"""The value of something that is not there, on one of the two sides."""

PARTS = ("contract", "uses", "code", "config", "inputs", "data", "target", "toolchain", "seed", "machine")
"""The parts of a key, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value of a key that differs. ``name`` is dotted within the part, "" for the part itself; sides may be ``ABSENT``."""

    part: str
    name: str
    before: Any
    after: Any
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The change as a program reads it; a side that is absent has no entry."""
        sides = {"before": self.before, "after": self.after}
        head = {"part": self.part, "name": self.name, "note": self.note}
        return head | {side: value for side, value in sides.items() if value is not ABSENT}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a stage's key since a run.

    changes  what differs, in the order of ``PARTS``
    unknown  inputs that cannot be told before the stage that makes them has run: input name -> that stage
    key      today's key; "" while inputs are unknown
    """

    stage: str
    run: Path
    key_then: str
    key: str
    changes: tuple[Change, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)
    stored: bool = False
    cacheable: bool = True

    def to_json(self) -> dict[str, Any]:
        """The explanation as a program reads it."""
        return {
            "stage": self.stage,
            "run": str(self.run),
            "key_then": self.key_then,
            "key": self.key or None,
            "changed": sorted({c.part for c in self.changes}, key=PARTS.index),
            "changes": [c.to_json() for c in self.changes],
            "unknown_inputs": dict(self.unknown),
            "stored": self.stored,
            "cacheable": self.cacheable,
        }


def explain(plan: Plan, stage_id: str, run: Path, workspace: Path) -> Explanation:
    """Compare a stage's key parts with those that a run kept.

    Args:
        plan: what would run today.
        stage_id: a stage of it.
        run: folder of the run.
        workspace: holds the store, which tells the inputs that today's stages before this one would hand on.

    Raises:
        UsageError: no such stage in the plan or in the run, or the run's key parts cannot be read.

    """
    stages = {s.id: s for s in plan.stages}
    if stage_id not in stages:
        raise UsageError(f"stage {stage_id}", f"{plan.path.name} has no such stage", did_you_mean(stage_id, stages))
    stage, folder = stages[stage_id], _folder(run, stage_id, workspace)
    then = read_json(folder / "key.json", "take another run with --against")
    inputs, unknown = _inputs(plan, stage, Store(workspace / "store"))
    parts = json.loads(canonical(key_parts(plan, stage, inputs)))
    changes = [c for part in PARTS for c in _changes(part, then, parts, stage, folder) if not (part == "inputs" and c.name in unknown)]
    key = "" if unknown else key_of(parts)
    stored = bool(key) and Store(workspace / "store").result_path(key).exists()
    return Explanation(stage_id, run, key_of(then), key, tuple(changes), unknown, stored, stage.spec.cacheable)


def _folder(run: Path, stage: str, workspace: Path) -> Path:
    folder = stage_folder(run, stage)
    if folder is not None and (folder / "key.json").is_file():
        return folder
    others = [r.name for r in list_runs(workspace) if (f := stage_folder(r, stage)) is not None and (f / "key.json").is_file()]
    hint = f"compare with the last one that did: --against {others[-1]}" if others else "run the pipeline up to it first: run --until"
    raise UsageError(f"stage {stage}", f"run {run.name} did not come to it", hint)


def _inputs(plan: Plan, stage: PlannedStage, store: Store) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of the stage's inputs as far as stored results tell them, and for the others the stage that must run first."""
    known: dict[str, dict[str, str]] = {}
    for earlier in plan.stages:
        if earlier.id == stage.id:
            break
        if not earlier.spec.cacheable or any(source not in known for source, _ in earlier.needs.values()):
            continue
        inputs = {name: known[source][output] for name, (source, output) in earlier.needs.items()}
        stored = store.load(key_of(key_parts(plan, earlier, inputs)))
        if stored is not None:
            known[earlier.id] = {name: o["sha256"] for name, o in stored["outputs"].items()}
    inputs = {name: known[source][output] for name, (source, output) in stage.needs.items() if source in known}
    return inputs, {name: source for name, (source, _) in stage.needs.items() if source not in known}


def _changes(part: str, then: Mapping[str, Any], now: Mapping[str, Any], stage: PlannedStage, folder: Path) -> Iterator[Change]:
    if part == "code":
        yield from _code_changes(then.get("code"), now["code"], stage, folder)
        return
    before, after = _flat(then.get(part)), _flat(now[part])
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ABSENT), after.get(name, ABSENT)
        if old is ABSENT or new is ABSENT or old != new:
            yield Change(part, name, old, new, _note(part, name, stage))


def _code_changes(then: Any, now: str, stage: PlannedStage, folder: Path) -> Iterator[Change]:
    """The modules whose code differs, where the run kept them; else the digest of them all."""
    if then == now:
        return
    path = folder / "code.json"
    if not path.is_file():
        yield Change("code", "", then, now, "the run did not keep its modules one by one")
        return
    before, after = read_json(path, "take another run with --against"), code_parts(stage)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield Change("code", name, before.get(name, ABSENT), after.get(name, ABSENT))


def _note(part: str, name: str, stage: PlannedStage) -> str:
    if part == "inputs" and name in stage.needs:
        return "from {}.{}".format(*stage.needs[name])
    return ""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value that is no mapping with keys; the name is "" for a value of its own. None counts as nothing there."""
    if isinstance(value, dict) and value:
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()}
    if isinstance(value, dict) or (value is None and not prefix):
        return {prefix: value} if prefix else {}
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{prefix}.{i}" if prefix else str(i)).items()}
    return {prefix: value}
