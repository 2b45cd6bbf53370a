"""``dataset``: look for everything that is wrong with pairs of images, and pack them for fast reading."""

from __future__ import annotations

import importlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from pipeline.contract import ReaderSpec
from pipeline.errors import UsageError, did_you_mean
from pipeline.verbs.deblur import JsonOpt, open_bars

_ROWS = 20  # findings of one kind that the table shows

_HELP = "Check pairs of blurred and sharp images, and pack them for fast reading."

_CHECK = """Look for everything that is wrong with pairs of images; exit code 2 when there are errors.

Errors: unreadable, unpaired or unequal images, pairs without blur, images smaller than the training crop, test scenes trained on.
Warnings: pairs that look exchanged or displaced, images that come twice, scenes that look like others.

Example: python -m pipeline dataset check pipeline.yaml

Example: python -m pipeline dataset check --source folder --set path=my/pairs --crop 256
"""

_PACK = """Pack pairs into two LMDB databases, read by 'source: lmdb'; images become PNG, so every pixel stays.

With --crop each image is cut into overlapping squares: training then decodes a quarter of a 720p frame for a crop, not all of it.

Example: python -m pipeline dataset pack pipeline.yaml --role train --out packed --crop 512 --step 256

Example: python -m pipeline dataset pack --source folder --set path=my/pairs --out packed
"""

PipelineArg = Annotated[Path | None, typer.Argument(help="pipeline file whose data to take", metavar="PIPELINE", show_default=False)]
SourceOpt = Annotated[str | None, typer.Option("--source", help="a data reader instead of a pipeline file", metavar="READER")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", help="an option of that reader; may be repeated", metavar="KEY=VALUE")]


class _Entry(NamedTuple):
    """A data set as it is named: its reader and what that needs to open it."""

    reader: ReaderSpec
    config: Any
    base: Path
    seed: int


def register(app: typer.Typer) -> None:
    """Add the verb with its two commands."""
    group = typer.Typer(help=_HELP, no_args_is_help=True, rich_markup_mode=None)
    group.command("check", help=_CHECK)(check)
    group.command("pack", help=_PACK)(pack)
    app.add_typer(group, name="dataset")


def check(
    pipeline: PipelineArg = None,
    source: SourceOpt = None,
    options: SetOpt = None,
    crop: Annotated[int, typer.Option("--crop", min=0, help="side of the training crops; 0: as the pipeline's stages say")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="look at files and headers, decode no image")] = False,
    everything: Annotated[bool, typer.Option("--all", help=f"list all findings of a kind, not the first {_ROWS}")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Look for everything that is wrong with pairs of images."""
    entries = _entries("check", pipeline, source, options or [])
    side = crop or (_largest_crop(pipeline) if pipeline else 0)
    checks = importlib.import_module("data.check")
    opened = {role: checks.inspect(*entry) for role, entry in entries.items()}
    roles, findings = [], []
    with open_bars(as_json) as bars:
        for name, (pairs, problems) in opened.items():
            step = bars.add_task(name, total=0 if quick or pairs is None else len(pairs))
            cut = side if name in ("train", source) else 0
            role, found = checks.check_role(name, pairs, problems, crop=cut, quick=quick, advance=lambda step=step: bars.advance(step))
            roles.append(role)
            findings += found
    findings = sorted([*findings, *checks.compare(roles)], key=lambda f: not f.error)
    if as_json:
        print(json.dumps(to_json(roles, findings), indent=1))
    else:
        _show(roles, findings, checks.MULTIPLE, None if everything else _ROWS)
    errors = sum(f.error for f in findings)
    if errors:
        where = f"{pipeline.name}: data" if pipeline else f"--source {source}"
        raise UsageError(where, f"{errors} error{'s' * (errors > 1)} found", "mend or remove what the table names and check again")


def pack(
    out: Annotated[Path, typer.Option("--out", help="folder for the databases; must not exist", metavar="DIR")],
    pipeline: PipelineArg = None,
    source: SourceOpt = None,
    options: SetOpt = None,
    role: Annotated[str, typer.Option("--role", help="which of the pipeline's data sets")] = "train",
    crop: Annotated[int, typer.Option("--crop", min=0, help="cut into squares of so many pixels; 0: whole images")] = 0,
    step: Annotated[int, typer.Option("--step", min=0, help="pixels from one square to the next; 0: half of --crop")] = 0,
    compression: Annotated[int, typer.Option("--compression", min=0, max=9, help="PNG level: 0 fast and large, 9 slow and small")] = 1,
    as_json: JsonOpt = False,
) -> None:
    """Pack pairs into two LMDB databases."""
    entry = _one(_entries("pack", pipeline, source, options or []), role, pipeline)
    pairs = entry.reader.open(entry.config, entry.base, entry.seed)
    packing = importlib.import_module("data.pack")
    begin = time.monotonic()
    with open_bars(as_json) as bars:
        task = bars.add_task("pairs", total=len(pairs))
        packed = packing.pack(pairs, out, packing.Cut(crop, step or max(1, crop // 2)), compression, lambda: bars.advance(task))
    seconds = time.monotonic() - begin
    if as_json:
        result = {"out": str(out), "images": len(pairs), "pairs": packed.pairs, "bytes": packed.bytes, "seconds": seconds}
        print(json.dumps(result, indent=1))
        return
    print(f"{packed.pairs} pairs from {len(pairs)} in {out}, {packed.bytes / 1e6:.1f} MB, {seconds:.1f} s")
    print(f"use it: {{source: lmdb, path: {out}}}")


def to_json(roles: Sequence[Any], findings: Sequence[Any]) -> dict[str, Any]:
    """The result as a program reads it: one entry for each role and for each finding; sizes are (width, height)."""
    return {
        "roles": [
            {
                "role": role.name,
                "pairs": role.pairs,
                "scenes": len(role.scenes),
                "sizes": [[width, height] for height, width in role.sizes],
                "uneven": role.uneven,
                "psnr_input": role.psnr,
            }
            for role in roles
        ],
        "findings": [
            {"level": _level(f), "role": f.role, "kind": f.kind.rstrip("?").replace(" ", "_"), "where": f.where, "what": f.what}
            for f in findings
        ],
        "errors": sum(f.error for f in findings),
        "warnings": sum(not f.error for f in findings),
    }


def _entries(command: str, pipeline: Path | None, source: str | None, options: Sequence[str]) -> dict[str, _Entry]:
    from pipeline.config import load_pipeline

    if (pipeline is None) == (source is None):
        what = "needs either a pipeline file or --source"
        raise UsageError(f"dataset {command}", what, "give PIPELINE, or --source folder --set path=DIR")
    if pipeline is None:
        return {str(source): _entry("--source", "", {"source": source, **parsed_options(options)}, Path.cwd(), 0)}
    if options:
        raise UsageError(f"--set {options[0]}", "goes with --source", "change the options in the pipeline file")
    file = load_pipeline(pipeline)
    if not file.data:
        raise UsageError(f"{pipeline.name}: data", "names no data set", "add 'train: {source: folder, path: DIR}' there")
    base = pipeline.resolve().parent
    return {role: _entry(f"{pipeline.name}: data.{role}", pipeline.name, options, base, file.seed) for role, options in file.data.items()}


def _entry(place: str, file: str, options: Mapping[str, Any], base: Path, seed: int) -> _Entry:
    from pipeline.plan import load_reader
    from pipeline.yamlfile import validate

    rest = dict(options)
    reader = load_reader(rest.pop("source", None), f"{place}.source" if file else place)
    config = validate(reader.config, rest, file or "--set", place.rpartition(" ")[2] if file else "")
    return _Entry(reader, config, base, seed)


def parsed_options(options: Sequence[str]) -> dict[str, Any]:
    """``a.b=1`` items as a nested mapping; values are read as YAML."""
    from pipeline.yamlfile import parse_yaml

    parsed: dict[str, Any] = {}
    for item in options:
        path, equals, text = item.partition("=")
        *parents, last = path.split(".")
        if not equals or not all([*parents, last]):
            raise UsageError(f"--set {item}", "is not of the form key=value", "e.g. --set path=my/pairs")
        node = parsed
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = parse_yaml(text, f"--set {item}")
    return parsed


def _one(entries: Mapping[str, _Entry], role: str, pipeline: Path | None) -> _Entry:
    if pipeline is None:
        return next(iter(entries.values()))
    if role not in entries:
        raise UsageError(f"--role {role}", f"{pipeline.name} has no such data set", did_you_mean(role, entries))
    return entries[role]


def _largest_crop(path: Path) -> int:
    """Side in pixels of the largest crop that any stage of the pipeline trains with; 0 if none trains."""
    from pipeline.config import load_pipeline
    from pipeline.plan import load_stage
    from pipeline.preflight import crops
    from pipeline.yamlfile import validate

    sides = [0]
    for id_, entry in load_pipeline(path).stages.items():
        spec = load_stage(entry.uses or f"{id_}.stage", f"{path.name}: stages.{id_}.uses")
        if "train" in spec.data:
            sides += crops(validate(spec.config, entry.config, path.name, f"stages.{id_}.with").model_dump())
    return max(sides)


def _level(finding: Any) -> str:
    return "error" if finding.error else "warning"


def _show(roles: Sequence[Any], findings: Sequence[Any], multiple: int, rows: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False)
    for column in ("", "set", "kind", "where", "what"):
        table.add_column(column, overflow="fold", no_wrap=column not in ("where", "what"))
    counts: Counter[tuple[str, str, bool]] = Counter()
    for f in findings:
        counts[f.role, f.kind, f.error] += 1
        if rows is None or counts[f.role, f.kind, f.error] <= rows:
            style = "red" if f.error else "yellow"
            table.add_row(Text(_level(f), style), Text(f.role), Text(f.kind), Text(f.where), Text(f.what))
    if findings:
        console.print(table)
    for (role, kind, _), count in counts.items():
        if rows is not None and count > rows:
            console.print(Text(f"and {count - rows} more of kind '{kind}' in {role}: --all lists them"), soft_wrap=True)
    for role in roles:
        console.print(Text(_summary(role, multiple)), soft_wrap=True)
    errors = sum(f.error for f in findings)
    warnings = len(findings) - errors
    console.print(Text(f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"))


def _summary(role: Any, multiple: int) -> str:
    parts = [f"{role.pairs} pair{'s' * (role.pairs != 1)}", f"{len(role.scenes)} scene{'s' * (len(role.scenes) != 1)}"]
    if role.sizes:
        small, large = (f"{width}x{height}" for height, width in (role.sizes[0], role.sizes[-1]))
        parts.append(f"{small} pixels" if small == large else f"{small} to {large} pixels")
    if role.uneven:
        parts.append(f"{role.uneven} with a side that is no multiple of {multiple}")
    if role.psnr is not None:
        parts.append(f"blurred images {role.psnr:.2f} dB")
    return f"{role.name}: {', '.join(parts)}"
