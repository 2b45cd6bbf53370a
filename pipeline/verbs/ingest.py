"""``ingest``: a board's result into the run whose bundle was benched, and its gates judged again."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.ingest.judge import Judgement
    from pipeline.ingest.result import DeviceResult
    from pipeline.target import Target

_HELP = """Take a board's result into a run, and judge its gates again with evidence 'target'.

The result counts only if it is of the run's bundle, from the target's board, with the golden output, steadily timed. The report is
written anew with the estimate, the measurement and the error of the estimate, by kind of operator where the board told its layers apart;
the version before stays beside it, and the prediction in calibration/predictions.jsonl of the workspace. Exit 0 when every
gate passed, 3 when one failed, 4 when one is unproven.

With --replay, outputs recorded earlier (trtexec's exports, or a result.json) are judged instead: every number then says "replayed",
and only report.replayed.* is written.

Example: python -m pipeline ingest latest result.json

Example: python -m pipeline ingest latest --replay recorded/
"""

WorkspaceOpt = Annotated[Path, typer.Option("--workspace", help="where runs are looked up by name", metavar="DIR")]
TargetOpt = Annotated[str | None, typer.Option("--target", help="the run's target, when it was a YAML of your own that has moved")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("ingest", help=_HELP)(ingest)


def ingest(
    run: Annotated[str, typer.Argument(help="a run: its folder, its name, or 'latest'", metavar="RUN")],
    result: Annotated[Path | None, typer.Argument(help="what bench wrote", metavar="RESULT")] = None,
    replay: Annotated[Path | None, typer.Option("--replay", help="a folder of recorded outputs instead", metavar="DIR")] = None,
    artifact: Annotated[str, typer.Option("--artifact", help="with --replay of trtexec's exports: what was recorded")] = "",
    target: TargetOpt = None,
    workspace: WorkspaceOpt = Path(".pipeline"),
    as_json: Annotated[bool, typer.Option("--json", help="print the new report.json instead of the summary")] = False,
) -> None:
    """Take a board's result into a run."""
    from pipeline.ingest.replay import read_replay
    from pipeline.ingest.result import read_result
    from pipeline.ingest.version import held
    from pipeline.runs import find_run

    if (result is None) == (replay is None):
        raise UsageError("ingest", "needs either a result or --replay DIR", "say RUN result.json, or RUN --replay DIR")
    folder = find_run(run, workspace.resolve())
    if not (folder / "bundle").is_dir():
        raise UsageError(f"run {folder.name}", "made no bundle that could have been benched", "name the run that the bundle came from")
    bundle = importlib.import_module("eval.bundle").Bundle.open(folder / "bundle")
    sha256 = hashlib.sha256((bundle.path / "MANIFEST.sha256").read_bytes()).hexdigest()
    where = str(result or replay)
    read = read_result(result) if result is not None else read_replay(replay or Path(), bundle, sha256, artifact)
    board = run_target(folder, target)
    from pipeline.ingest.check import check_result

    check_result(where, read, bundle, sha256, board)
    with held(folder, lambda line: print(line, file=sys.stderr, flush=True)):
        _take_in(folder, read, result, bundle, board, as_json)


def run_target(folder: Path, given: str | None) -> Target:
    """The target of a run: as given, as the run kept it, or the shipped one of that name.

    Raises:
        UsageError: none of them, or not the run's.

    """
    from pipeline.runs import read_json, read_report
    from pipeline.target import Target, load_target
    from pipeline.yamlfile import load_yaml, validate

    name = str(read_report(folder).get("target"))
    kept = folder / "target.resolved.yaml"
    if given is None and kept.is_file():
        return validate(Target, load_yaml(kept), str(kept))
    if given is None:
        head = read_json(folder / "run.json", "the run's folder is not complete")
        try:
            return load_target(str(head.get("target", name)))
        except UsageError as e:
            raise UsageError(
                f"run {folder.name}", f"was for '{name}', which is no shipped target", "name its file: --target board.yaml"
            ) from e
    found = load_target(given)
    if found.name != name:
        raise UsageError(f"--target {given}", f"is '{found.name}', the run was for '{name}'", "name the file of the run's target")
    return found


def _take_in(folder: Path, read: DeviceResult, path: Path | None, bundle: Any, target: Target, as_json: bool) -> None:
    from pipeline.config import load_pipeline
    from pipeline.contract import Evidence
    from pipeline.ingest.figures import measurements
    from pipeline.ingest.forecast import forecast, keep
    from pipeline.ingest.judge import Judgement, beside, judged, unmet_gate
    from pipeline.runs import read_json, read_report

    report = read_report(folder)
    rows = measurements(read, target, replayed=path is None)
    content = path.read_bytes() if path is not None else None
    sha256 = hashlib.sha256(content or b"").hexdigest()
    guess = forecast(read, bundle, target, f"{read.bundle_sha256[:16]}:{sha256[:16]}", replayed=path is None)
    rows += guess.rows if guess is not None else ()
    options = read_json(folder / "run.json", "the run's folder is not complete").get("options") or {}
    required = Evidence.TARGET if options.get("required") == "target" else None
    if read.artifact == bundle.facts.chosen:
        made = judged(report, load_pipeline(folder / "pipeline.resolved.yaml"), target, read.artifact, rows, required)
    else:
        new = beside(report, read.artifact, rows)
        stage = next(s["id"] for s in new["stages"] if any(c["name"] == read.artifact for c in s["candidates"]))
        made = Judgement(new, stage, unmet_gate(new))
    if guess is not None and path is not None:
        keep(folder, guess.prediction)
    _write(folder, made, read, content, sha256, as_json)


def _write(folder: Path, made: Judgement, read: DeviceResult, content: bytes | None, sha: str, as_json: bool) -> None:
    from pipeline.ingest.identity import described
    from pipeline.ingest.version import keep_result, write_replayed, write_version
    from pipeline.runs import read_report

    board = described(read.identity)
    stage = next(s for s in made.report["stages"] if s["id"] == made.stage)
    when = f", {read.started}" if read.started else ""
    stage["notes"].append(f"{'replayed: ' if content is None else ''}{read.artifact} was measured on {board}{when}")
    if content is None:
        page = write_replayed(folder, made.report)
        said = f"replayed: judged on recorded outputs, the run's own report is as it was; see {page}"
        _show(made, made.report | {"replayed": True}, said, as_json)
        return
    entry = {"file": keep_result(folder, content, sha), "sha256": sha, "artifact": read.artifact, "board": board, "started": read.started}
    number = write_version(folder, made.report, entry, made.stage)
    said = f"{read.artifact} on {board}: ingested as version {number} of the report, the one before is report.{number - 1}.html"
    _show(made, read_report(folder), said, as_json)


def _show(made: Judgement, report: dict[str, Any], said: str, as_json: bool) -> None:
    from pipeline.verbs.run import gate_error

    if as_json:
        print(json.dumps(report, indent=1))
    else:
        from rich.console import Console

        from pipeline.report import print_summary

        print_summary(report, Console())
        print(said)
    if made.unmet is not None:
        raise gate_error(*made.unmet)
