"""From what a trial picked to a complete pipeline file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config import StageEntry
from pipeline.errors import UsageError
from pipeline.plan import PlannedStage, load_reader, load_stage, resolve_files
from pipeline.yamlfile import validate
from quantize import unquantized
from search.problem import Problem
from search.space import SEARCHED, Params, student_keys

Tree = dict[str, Any]


def candidate(problem: Problem, params: Params) -> Tree:
    """The user's pipeline with the picks in it, its stages otherwise as they were.

    Args:
        problem: the pipeline and its searched stages.
        params: see ``search.space.Params``.

    Raises:
        UsageError: a stage reads what is left out, or what the pipeline sets does not fit the student that was picked.
    """
    tree = problem.tree()
    _set_student(problem, tree["stages"][problem.student.id], params)
    if problem.prune is not None:
        if params["prune"]:
            entry = tree["stages"][problem.prune.id]
            entry["with"] = {k: v for k, v in entry.get("with", {}).items() if k != "to"} | {"ratio": params["prune"]}
        else:
            _leave_out(tree, problem.prune, problem.plan.path.name)
    if problem.quantize is not None and params["precision"] == "float":
        _keep_float(tree["stages"][problem.quantize.id])
    return tree


def _set_student(problem: Problem, entry: Tree, params: Params) -> None:
    settings = entry.get("with", {})
    own = set(problem.student.spec.config.model_fields)
    student = settings.get("config", {}) | {k: v for k, v in settings.items() if k not in own}
    kept = {k: v for k, v in student.items() if k not in SEARCHED and k != "network"}
    try:
        keys = student_keys(params, kept, problem.plan.target.channel_multiple)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(["stages", problem.student.id, "with", *map(str, first["loc"])])
        what = f"does not fit what is searched: {first['msg'].removeprefix('Value error, ')}"
        raise UsageError(f"{problem.plan.path.name}: {where}", what, "give one value that fits any number of scales") from None
    entry["with"] = {k: v for k, v in settings.items() if k in own and k != "config"} | keys


def _leave_out(tree: Tree, stage: PlannedStage, file: str) -> None:
    """Remove a stage that turns ``model`` into ``model``: who reads it, or is held against it, turns to the stage before it."""
    stages, (source, output) = tree["stages"], stage.needs["model"]
    del stages[stage.id]
    for id_, entry in stages.items():
        for name, ref in entry.get("needs", {}).items():
            if ref.startswith(f"{stage.id}.") and ref != f"{stage.id}.model":
                what = f"reads '{ref}', so stage '{stage.id}' cannot be left out"
                raise UsageError(f"{file}: stages.{id_}.needs.{name}", what, "remove 0 from 'prune' in the search space")
            if ref == f"{stage.id}.model":
                entry["needs"][name] = f"{source}.{output}"
        for gate in entry.get("gates", ()):
            if gate.get("against") == stage.id:
                gate["against"] = source


def _keep_float(entry: Tree) -> None:
    """Make the quantize stage one that writes the network in float, with those of its gates that still have something to judge."""
    needs = {k: v for k, v in entry["needs"].items() if k in unquantized.STAGE.consumes}
    gates = [g for g in entry.get("gates", ()) if g["metric"] in unquantized.MEASURED]
    entry.clear()
    entry.update({"uses": unquantized.__name__, "needs": needs, "gates": gates})


def planned(problem: Problem, tree: Tree, id_: str) -> PlannedStage:
    """One stage of a candidate, validated as ``pipeline.plan`` does it, but without opening the data again.

    Raises:
        UsageError: a configuration that the stage refuses.
    """
    where, base = problem.plan.path.name, problem.plan.path.resolve().parent
    entry = StageEntry.model_validate(tree["stages"][id_])
    uses = entry.uses or f"{id_}.stage"
    spec = load_stage(uses, f"{where}: stages.{id_}.uses")
    config = resolve_files(validate(spec.config, entry.config, where, f"stages.{id_}.with"), base, f"{where}: stages.{id_}.with")
    needs = {name: (ref.split(".")[0], ref.split(".")[1]) for name, ref in entry.needs.items()}
    return PlannedStage(id_, uses, spec, config, needs, entry.gates)


def portable(problem: Problem, tree: Tree) -> Tree:
    """The candidate with absolute paths, so that its file may lie anywhere."""
    out, base = copy.deepcopy(tree), problem.plan.path.resolve().parent
    for role, options in out["data"].items():
        rest = {k: v for k, v in options.items() if k != "source"}
        config = load_reader(options.get("source"), f"data.{role}").config.model_validate(rest)
        out["data"][role] = {"source": options["source"], **_absolute(rest, config, base)}
    for id_, entry in out["stages"].items():
        if entry.get("with"):
            entry["with"] = _absolute(entry["with"], planned(problem, tree, id_).config, base)
    return out


def _absolute(raw: Any, value: Any, base: Path) -> Any:
    """``raw`` as the YAML has it, with every path that ``value``, the same when validated, holds made absolute."""
    if isinstance(value, Path):
        return str(base / value)
    if isinstance(value, BaseModel) and isinstance(raw, Mapping):
        named = {field.alias or name: getattr(value, name) for name, field in type(value).model_fields.items()}
        return {k: _absolute(v, named[k], base) if k in named else v for k, v in raw.items()}
    if isinstance(value, Mapping) and isinstance(raw, Mapping):
        return {k: _absolute(v, value.get(k), base) for k, v in raw.items()}
    if isinstance(value, Sequence) and isinstance(raw, list) and len(value) == len(raw):
        return [_absolute(r, v, base) for r, v in zip(raw, value, strict=True)]
    return raw
