"""From a pipeline file to a plan: stages found, configurations validated, order decided, data opened. No effects."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.config import Gate, PipelineFile, StageEntry
from pipeline.contract import PairSource, ReaderSpec, StageSpec
from pipeline.errors import UsageError, did_you_mean
from pipeline.gates import bound_of
from pipeline.target import Target
from pipeline.yamlfile import validate

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A stage ready to run: what the file says of it, checked against what its module declares."""

    id: str
    uses: str
    spec: StageSpec
    config: BaseModel
    needs: Mapping[str, tuple[str, str]]  # input name -> (stage id, output name)
    gates: tuple[Gate, ...]

    @property
    def title(self) -> str:
        """First line of the stage module's docstring."""
        doc = importlib.import_module(self.uses).__doc__ or self.uses
        return doc.strip().splitlines()[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run needs to know before its first effect."""

    path: Path
    seed: int
    file: PipelineFile
    target: Target
    stages: tuple[PlannedStage, ...]  # in running order
    data: Mapping[str, PairSource]


def make_plan(path: Path, file: PipelineFile, target: Target) -> Plan:
    """Resolve every name in the file.

    Raises:
        UsageError: unknown stage, reader, role, input or key; a cycle; a kind that does not fit; data sets that overlap.

    """
    where, base = path.name, path.resolve().parent
    stages = {id_: _stage(where, base, id_, entry) for id_, entry in file.stages.items()}
    for stage in stages.values():
        _check_inputs(where, stage, stages)
        _check_gates(where, stage, stages, target)
    ordered = tuple(stages[i] for i in _order(where, stages))
    roles = {role for s in ordered for role in s.spec.data}
    data = {role: _open(where, base, file, role) for role in sorted(roles)}
    _refuse_overlap(where, data)
    return Plan(path, file.seed, file, target, ordered, data)


def load_stage(uses: str, where: str) -> StageSpec:
    """The declaration that a stage module exports.

    Raises:
        UsageError: no such module, or a module without ``STAGE``.

    """
    try:
        module = importlib.import_module(uses)
    except ModuleNotFoundError as e:
        if e.name and (uses == e.name or uses.startswith(f"{e.name}.")):
            raise UsageError(where, f"there is no stage module '{uses}'", did_you_mean(uses, known_stages())) from None
        raise
    spec = getattr(module, "STAGE", None)
    if not isinstance(spec, StageSpec):
        raise UsageError(where, f"module '{uses}' exports no STAGE", did_you_mean(uses, known_stages()))
    return spec


@cache
def known_stages() -> tuple[str, ...]:
    """Import paths of the stages that this project ships: modules with a ``STAGE = `` line."""
    found = []
    for folder in sorted(p for p in ROOT.iterdir() if (p / "__init__.py").exists() and p.name != "tests"):
        for file in sorted(folder.glob("*.py")):
            if "\nSTAGE = " in file.read_text(encoding="utf-8"):
                found.append(f"{folder.name}.{file.stem}")
    return tuple(found)


def known_readers() -> list[str]:
    """Names of the data readers: the files of ``data/readers/``."""
    return sorted(p.stem for p in (ROOT / "data" / "readers").glob("*.py") if p.stem != "__init__")


def _stage(where: str, base: Path, id_: str, entry: StageEntry) -> PlannedStage:
    place = f"{where}: stages.{id_}"
    uses = entry.uses or f"{id_}.stage"
    spec = load_stage(uses, f"{place}.uses")
    config = resolve_files(validate(spec.config, entry.config, where, f"stages.{id_}.with"), base, f"{place}.with")
    needs = {}
    for name, ref in entry.needs.items():
        stage, output = ref.split(".")
        needs[name] = (stage, output)
    return PlannedStage(id_, uses, spec, config, needs, entry.gates)


def resolve_files(config: BaseModel, base: Path, where: str) -> BaseModel:
    """Make every ``Path`` in a configuration absolute, relative to the YAML's folder.

    Raises:
        UsageError: a path that does not exist.

    """
    found = {name: getattr(config, name) for name in type(config).model_fields}
    update = {name: _resolved(value, base, f"{where}.{name}", _hint(config, name)) for name, value in found.items()}
    changed = {name: value for name, value in update.items() if value is not found[name]}
    return config.model_copy(update=changed) if changed else config


def _hint(config: BaseModel, name: str) -> str:
    """What to do when the file is missing: as the field says (``json_schema_extra={"hint": ...}``), or in general."""
    extra = type(config).model_fields[name].json_schema_extra
    own = extra.get("hint") if isinstance(extra, dict) else None
    return str(own) if own else "give a path relative to the pipeline file, or an absolute one"


def _resolved(value: Any, base: Path, where: str, hint: str) -> Any:
    if isinstance(value, BaseModel):
        return resolve_files(value, base, where)
    if isinstance(value, tuple) and any(isinstance(v, BaseModel) for v in value):
        return tuple(_resolved(v, base, f"{where}.{i}", hint) for i, v in enumerate(value))
    if not isinstance(value, Path):
        return value
    path = value if value.is_absolute() else base / value
    if not path.exists():
        raise UsageError(where, f"no such file '{value}'", hint)
    return path


def _check_inputs(where: str, stage: PlannedStage, stages: Mapping[str, PlannedStage]) -> None:
    place = f"{where}: stages.{stage.id}.needs"
    declared = {name.removesuffix("?"): name for name in stage.spec.consumes}
    for name, (source, output) in stage.needs.items():
        if name not in declared:
            raise UsageError(f"{place}.{name}", f"{stage.uses} takes no input '{name}'", did_you_mean(name, declared))
        if source not in stages:
            raise UsageError(f"{place}.{name}", f"there is no stage '{source}'", did_you_mean(source, stages))
        produces = stages[source].spec.produces
        if output not in produces:
            raise UsageError(f"{place}.{name}", f"stage '{source}' has no output '{output}'", did_you_mean(output, produces))
        kind = stage.spec.consumes[declared[name]]
        if produces[output] != kind:
            what = f"'{source}.{output}' is a {produces[output]}, not a {kind}"
            raise UsageError(f"{place}.{name}", what, f"name an output of kind {kind}")
    for name, spelled in declared.items():
        if name not in stage.needs and not spelled.endswith("?"):
            raise UsageError(f"{place}.{name}", f"{stage.uses} needs this input", f"add '{name}: <stage>.<output>'")


def _check_gates(where: str, stage: PlannedStage, stages: Mapping[str, PlannedStage], target: Target) -> None:
    before = _ancestors(stage.id, stages)
    for i, gate in enumerate(stage.gates):
        if gate.against is not None and gate.against not in before:
            place = f"{where}: stages.{stage.id}.gates.{i}.against"
            raise UsageError(place, f"'{gate.against}' is not a stage that '{stage.id}' builds on", did_you_mean(gate.against, before))
        try:
            bound_of(gate, target)
        except UsageError as e:
            raise UsageError(f"{where}: stages.{stage.id}.gates.{i}.{gate.rule}", e.what, e.hint) from None


def _ancestors(id_: str, stages: Mapping[str, PlannedStage]) -> set[str]:
    found: set[str] = set()
    todo = [id_]
    while todo:
        for source, _ in stages[todo.pop()].needs.values():
            if source not in found and source in stages:
                found.add(source)
                todo.append(source)
    return found


def _order(where: str, stages: Mapping[str, PlannedStage]) -> Iterator[str]:
    """Depth-first topological order that keeps the file's order where it is free; a cycle is an error that shows its path."""
    done: set[str] = set()
    path: list[str] = []

    def visit(id_: str) -> Iterator[str]:
        if id_ in path:
            loop = " -> ".join([*path[path.index(id_) :], id_])
            raise UsageError(f"{where}: stages", f"the stages need each other in a circle: {loop}", "remove one of these 'needs'")
        if id_ in done:
            return
        path.append(id_)
        for source, _ in stages[id_].needs.values():
            yield from visit(source)
        path.pop()
        done.add(id_)
        yield id_

    for id_ in stages:
        yield from visit(id_)


def load_reader(source: Any, where: str) -> ReaderSpec:
    """The reader declared in ``data/readers/<source>.py``."""
    if not isinstance(source, str) or source not in known_readers():
        raise UsageError(where, f"unknown data source {source!r}", did_you_mean(str(source), known_readers()))
    spec = importlib.import_module(f"data.readers.{source}").READER
    if not isinstance(spec, ReaderSpec):
        raise UsageError(where, f"data/readers/{source}.py exports no READER", "look at data/readers/folder.py")
    return spec


def _open(where: str, base: Path, file: PipelineFile, role: str) -> PairSource:
    if role not in file.data:
        raise UsageError(f"{where}: data.{role}", "is missing", f"a stage reads it; add 'data: {{{role}: {{source: ...}}}}'")
    options = dict(file.data[role])
    reader = load_reader(options.pop("source", None), f"{where}: data.{role}.source")
    config = validate(reader.config, options, where, f"data.{role}")
    return reader.open(config, base, file.seed)


def _refuse_overlap(where: str, data: Mapping[str, PairSource]) -> None:
    if "test" not in data:
        return
    held_out = data["test"].scenes()
    by_content = {digest: scene for scene, digest in held_out.items()}
    for role in sorted(data.keys() - {"test"}):
        for scene, digest in data[role].scenes().items():
            if digest in by_content or scene in held_out:
                name = by_content.get(digest, scene)
                what = f"scene '{name}' is also in data.{role}, so its score would prove nothing"
                raise UsageError(f"{where}: data.test", what, "split by scene: each photograph or sequence in one split only")


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: what hashes are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
