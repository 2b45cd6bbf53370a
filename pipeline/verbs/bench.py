"""``bench``: a bundle on a board, and its result back."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import GateUnproven, StageFailed, ToolchainMissing, UsageError
from pipeline.runs import with_bundle

if TYPE_CHECKING:
    from pipeline.target import Target

_HELP = """Bring a bundle to a board, verify it there, time it, and fetch result.json.

--on: local, ssh://[user@]host[:port][/dir], adb[:serial], rpc://tracker:port/key (TVM's tracker), or emulate:cpu (function only: its
timings prove nothing). ssh uses your own configuration, keys and agent, and never asks for a password. Transfers resume; a benchmark
goes on when the connection does not; whoever comes second to a board waits in line; the board is left as it was found.

Example: python -m pipeline bench latest --on ssh://nvidia@xavier --ingest latest

With --calibrate, small networks of one kind of operator each are timed there instead, by the runtime and in the precision of the bundle's
artifact; what they teach is kept in the workspace, and estimates for this target use it from then on. --seconds and --count are then of
all networks together and of each. Where engines are built on the board, that takes many minutes: --limit is for each step.

Example: python -m pipeline bench path/to/bundle --on local --seconds 5

Example: python -m pipeline bench latest --on ssh://nvidia@xavier --calibrate
"""

BundleArg = Annotated[Path, typer.Argument(help="a bundle, or a run that made one: its folder, its name, or 'latest'", metavar="BUNDLE")]
OnOpt = Annotated[str, typer.Option("--on", help="the board; see above", metavar="WHERE")]
TargetOpt = Annotated[str | None, typer.Option("--target", help="the bundle's target, when it was a YAML of your own", metavar="T")]
LimitOpt = Annotated[float, typer.Option("--limit", min=1, help="seconds after which a step on the board is stopped")]
WaitOpt = Annotated[float, typer.Option("--wait", min=0, help="seconds to wait in line for the board")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("bench", help=_HELP)(bench)


def bench(
    bundle: BundleArg,
    on: OnOpt,
    artifact: Annotated[str, typer.Option("--artifact", help="name in the bundle; the one chosen for the target when left out")] = "",
    seconds: Annotated[float, typer.Option("--seconds", min=0, help="least time to measure")] = 10.0,
    count: Annotated[int, typer.Option("--count", min=0, help="least number of runs; 0: as the bundle's script has it")] = 0,
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads; 0: as the bundle's script has it")] = 0,
    set_clocks: Annotated[bool, typer.Option("--set-clocks", help="set the board's power mode and clocks first")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave the bundle on the board, for the next time")] = False,
    out: Annotated[Path, typer.Option("--out", help="file for the result", metavar="FILE")] = Path("result.json"),
    calibrate: Annotated[bool, typer.Option("--calibrate", help="teach the estimator this board instead: see above")] = False,
    ingest: Annotated[str | None, typer.Option("--ingest", help="take the result into this run at once", metavar="RUN")] = None,
    target: TargetOpt = None,
    workspace: Annotated[Path, typer.Option("--workspace", help="where runs are looked up by name", metavar="DIR")] = Path(".pipeline"),
    wait: WaitOpt = 600.0,
    limit: LimitOpt = 1800.0,
    as_json: Annotated[bool, typer.Option("--json", help="print the result instead of a summary")] = False,
) -> None:
    """Bring a bundle to a board, verify it there, time it, and fetch the result."""
    _refuse_folder(out)
    say = _say_apart if as_json else _say
    bundle = with_bundle(bundle, workspace.resolve())
    transports = importlib.import_module("targets.transports")
    opened = importlib.import_module("eval.bundle").Bundle.open(bundle / "bundle" if (bundle / "bundle").is_dir() else bundle)
    way = transports.open_transport(on, say)
    if calibrate:
        _refuse_ingest(ingest)
        asked: dict[str, Any] = {"bundle": opened, "artifact": opened.artifact(artifact), "target": _bare(bundle, opened, target)}
        asked |= {"workspace": _workspace(bundle, workspace), "threads": threads, "seconds": seconds, "count": count}
        _calibrate({**asked, "set_clocks": set_clocks, "limit_s": limit, "wait_s": wait, "keep": keep}, way, say, as_json)
        return
    flags = ["--seconds", f"{seconds:g}", *(["--count", str(count)] if count else []), *(["--threads", str(threads)] if threads else [])]
    flags += ["--set-clocks"] if set_clocks else []
    check = _board_check(opened, target, on, way.function_only, say)
    asked = {"limit_s": limit, "wait_s": wait, "seconds": seconds, "keep": keep, "check": check, "named": bool(artifact)}
    asked["log"] = str(_log_of(out))
    job = _job(opened, artifact, flags, asked)
    fetched = way.bench(job, lambda files: _salvage(files, out, say))
    tree = _result(fetched, way, job.sha256, lambda: _salvage(fetched.files, out, say))
    _write(out, (json.dumps(tree, indent=1) + "\n").encode())
    _show(tree, out, way, as_json)
    if not tree.get("stable", True) and not way.function_only:
        reason = tree.get("unstable_reason") or "no reason is given"
        raise GateUnproven(
            str(out), f"the timing was unstable ({reason}), so no gate counts it", "let the board cool, close what else runs"
        )
    if ingest is not None:
        importlib.import_module("pipeline.verbs.ingest").ingest(ingest, out, target=target, workspace=workspace)


def _refuse_folder(out: Path) -> None:
    if not out.name or out.is_dir():
        raise UsageError(f"--out {out}", "is a folder", "name a file in it, e.g. result.json")


def _refuse_ingest(run: str | None) -> None:
    if run is not None:
        raise UsageError(f"--ingest {run}", "takes a benchmark's result, and --calibrate makes none", "leave one of them out")


def _calibrate(asked: Mapping[str, Any], way: Any, say: Callable[[str], None], as_json: bool) -> None:
    from pipeline.calibrate import TABLE, Ask, calibrate

    made = calibrate(Ask(**asked), way, say, lambda files: _salvage(files, Path(TABLE), say))
    if as_json:
        print(json.dumps(made.model_dump(mode="json"), indent=1))


def _workspace(given: Path, otherwise: Path) -> Path:
    from pipeline.calibration import workspace_of_run

    return workspace_of_run(given, otherwise)


def _bare(given: Path, bundle: Any, name: str | None) -> Target:
    """The target without what was learned of it: as named, as the run kept it, or the shipped one."""
    kept = given / "target.resolved.yaml"
    if name is None and kept.is_file():
        from pipeline.target import Target
        from pipeline.yamlfile import load_yaml, validate

        found = validate(Target, load_yaml(kept), str(kept))
    else:
        found = _target(bundle, name)
    rates = {k: r.model_copy(update={"calibrations": ()}) for k, r in found.rates.items()}
    return found.model_copy(update={"rates": rates})


def _job(bundle: Any, name: str, flags: list[str], asked: Mapping[str, Any]) -> Any:
    """The job of the transports: build the engine where there is one to build, then verify and time."""
    base = importlib.import_module("targets.transports.common.base")
    artifact = bundle.artifact(name)
    facts = artifact.model_dump(mode="json")
    builds = "build_flags" in facts["facts"] and (bundle.path / "build_engine.sh").is_file()
    steps = [("sh", "build_engine.sh", artifact.name)] * builds
    steps += [("python", "bench.py", "--artifact", artifact.name, *flags, "--out", base.RESULT)]
    return base.Job(
        bundle=bundle.path,
        files=base.bundle_files(bundle.path),
        sha256=base.manifest_sha256(bundle.path),
        artifact=artifact.name,
        facts=facts,
        steps=tuple(steps),
        fetch=(base.RESULT,),
        **asked,
    )


def _board_check(
    bundle: Any, given: str | None, on: str, function_only: bool, say: Callable[[str], None]
) -> Callable[[Mapping[str, str]], None]:
    """What refuses a board that is not the bundle's target; on this machine and under emulation it only says what the result is not."""
    from pipeline.ingest.identity import described, recognise_rules, unlike

    board = _target(bundle, given)

    def check(identity: Mapping[str, str]) -> None:
        if function_only:
            say(f"{on} emulates the CPU: what runs here proves that the bundle works, its timings prove nothing")
            return
        wrong = unlike(board, identity)
        say(f"{on}: {described(identity)}" + (f", taken for {board.name}" if not wrong else ""))
        if wrong and (on.startswith("local") or not recognise_rules(board)):
            say(f"warning: the result cannot count for {board.name}: {wrong}")
        elif wrong:
            hint = f"connect {board.title}, or make a bundle for this board: run --target …"
            raise ToolchainMissing(on, f"is {described(identity)}, not {board.name}: {wrong}", hint)

    return check


def _target(bundle: Any, given: str | None) -> Target:
    from pipeline.target import load_target

    try:
        found = load_target(given or bundle.facts.target)
    except UsageError as e:
        if given is not None:
            raise
        what = f"is for '{bundle.facts.target}', which is no shipped target"
        raise UsageError(str(bundle.path), what, "name its file: --target board.yaml") from e
    if found.name != bundle.facts.target:
        raise UsageError(f"--target {given}", f"is '{found.name}', the bundle is for '{bundle.facts.target}'", "name the bundle's target")
    return found


def _result(fetched: Any, way: Any, sha256: str, salvage: Callable[[], None]) -> dict[str, Any]:
    """The result with what only this side knows: how it was brought back, and who the board said it was."""
    try:
        tree = json.loads(fetched.files["result.json"])
    except ValueError as e:
        salvage()
        raise StageFailed(way.name, f"result.json is not JSON ({e})", "read what was kept of it, and run again") from e
    if not isinstance(tree, dict) or tree.get("bundle_sha256") != sha256:
        raise StageFailed(way.name, "result.json is not of this bundle", "remove what else writes into the bundle's folder on the board")
    board = {k: v for k, v in fetched.identity.items() if k not in {"uid", "user", "home", "tmp"}}
    return {**tree, "transport": {"scheme": way.scheme, "name": way.name, "function_only": way.function_only}, "board": board}


def _salvage(files: Mapping[str, bytes], out: Path, say: Callable[[str], None]) -> None:
    """Keep what a failed benchmark left: its log, and as much of a result as there is, under a name that nobody takes for one."""
    for name, content in files.items():
        if content:
            path = _log_of(out) if name == "log" else out.with_name(f"{out.stem}.partial-{name}")
            _write(path, content)
            say(f"kept {path}")


def _log_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.log")


def _write(path: Path, content: bytes) -> None:
    from pipeline.store import write_atomic

    try:
        write_atomic(path, content.decode("utf-8", "replace"))
    except OSError as e:
        raise UsageError(f"--out {path}", f"cannot be written ({e.strerror})", "name a file in a folder that can be written to") from e


def _show(tree: Mapping[str, Any], out: Path, way: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(tree, indent=1))
        return
    what = "emulated, no speed" if way.function_only else f"measured on {way.name}"
    for name in ("kernel", "frame"):
        t = tree.get(name)
        if t:
            times = f"p50 {t['p50_ms']:.2f} ms, p90 {t['p90_ms']:.2f} ms, p99 {t['p99_ms']:.2f} ms, {t['count']} runs"
            print(f"{tree['artifact']} {name}: {times} ({what})")
    print(out)


def _say(line: str) -> None:
    print(line, flush=True)


def _say_apart(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
