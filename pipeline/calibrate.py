"""``bench --calibrate``: microbenchmarks timed on a board, and what they teach the estimator about it."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.calibration import Recorded, calibration_path, described, fingerprint, read, record, refined
from pipeline.errors import GateUnproven, StageFailed, ToolchainMissing, UsageError
from pipeline.ingest.identity import described as board_in_words
from pipeline.ingest.identity import unlike
from pipeline.target import Target

TABLE = "calibration.json"
ROUNDS = {"cpu": "3", "gpu": "2"}


class Timed(BaseModel):
    """One microbenchmark: its low time of all runs and of each round in ms, and the number of runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ms: float = Field(gt=0, allow_inf_nan=False)
    rounds_ms: tuple[float, ...]
    count: int = Field(ge=1)


class Table(BaseModel):
    """What the board's script writes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    schema_: Literal[1] = Field(alias="schema")
    bundle_sha256: str
    device: dict[str, Any]
    threads: int
    networks: dict[str, Timed]
    stable: bool
    unstable_reason: str = ""
    started: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """What the user asked for.

    target   the bundle's, without what was measured
    artifact its entry in the bundle: backend, precision and processor are calibrated as it has them
    threads  CPU threads, 0: as the artifact
    seconds  least time to measure over all networks
    count    least number of runs of each, 0: as the script has it
    """

    bundle: Any
    artifact: Any
    target: Target
    workspace: Path
    threads: int
    seconds: float
    count: int
    set_clocks: bool
    limit_s: float
    wait_s: float
    keep: bool

    @property
    def cpu_threads(self) -> int:
        """Threads of the measurement; 0 on a GPU."""
        return (self.threads or int(self.artifact.facts.get("threads", 1))) if self.artifact.runs_on == "cpu" else 0


def calibrate(ask: Ask, way: Any, say: Callable[[str], None], salvage: Callable[[Mapping[str, bytes]], None]) -> Recorded:
    """Build the microbenchmarks, time them on the board, record what they teach, and say what that changes.

    Args:
        ask: what to calibrate.
        way: the transport.
        say: called with each line meant for the user.
        salvage: called with what a failed measurement left.

    Returns:
        What was recorded.

    Raises:
        UsageError: the way cannot do it, or the target states no rates for the processor.
        ToolchainMissing: another board, or something is missing here or there.
        StageFailed: a network cannot be built or run.
        GateUnproven: emulated, or timed unsteadily; nothing is recorded.

    """
    before = _before(ask, way)
    was = _estimate(ask, before)  # a rate that the target does not state is said now, not after the measurement
    how = importlib.import_module("compile.calibrate").How(ask.target, ask.artifact.backend, ask.artifact.precision, ask.artifact.runs_on)
    with tempfile.TemporaryDirectory(prefix="deblur-calibrate-") as tmp:
        folder = Path(tmp, "calibration")
        layers = importlib.import_module("compile.calibrate").write_calibration(folder, how, Path(tmp), say)
        job = _job(ask, folder, way, say)
        fetched = way.bench(job, salvage)
    table = _table(fetched, way, job.sha256, layers, salvage)
    _refuse(table, way, fetched.identity, ask.target)
    return _record(ask, was, table, layers, _identity(fetched.identity, table), say)


def _before(ask: Ask, way: Any) -> Target:
    """The target as it was known so far; refuses what cannot work before anything is built."""
    shell = importlib.import_module("targets.transports.common.shell").ShellTransport
    if not isinstance(way, shell):
        raise UsageError(way.name, "runs no scripts, and a calibration is one", "reach the board by ssh:// or adb")
    if ask.artifact.runs_on not in ask.target.rates:
        raise UsageError(f"target {ask.target.name}", f"states no rates for its {ask.artifact.runs_on}", "add them to the target file")
    return refined(ask.target, ask.workspace)


def _job(ask: Ask, folder: Path, way: Any, say: Callable[[str], None]) -> Any:
    base = importlib.import_module("targets.transports.common.base")
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    builds = (folder / "build_engine.sh").is_file()
    names = [a["name"] for a in facts["artifacts"]]
    if builds:
        say(f"{len(names)} engines are built on the board first: that takes a while")
    steps = [("sh", "build_engine.sh", name) for name in names if builds]
    flags = ["--rounds", ROUNDS[ask.artifact.runs_on], "--seconds", f"{ask.seconds:g}", "--threads", str(ask.cpu_threads)]
    flags += [*(["--count", str(ask.count)] if ask.count else []), *(["--force-board"] if way.function_only else [])]
    flags += [*(["--set-clocks"] if ask.set_clocks else []), "--out", TABLE]
    return base.Job(
        bundle=folder,
        files=base.bundle_files(folder),
        sha256=base.manifest_sha256(folder),
        artifact="",
        facts=facts["artifacts"][0],
        steps=(*steps, ("python", "calibrate.py", *flags)),
        limit_s=ask.limit_s,
        wait_s=ask.wait_s,
        seconds=ask.seconds,
        keep=ask.keep,
        fetch=(TABLE,),
        log=f"{TABLE}.log",
        check=_check(ask.target, way, say),
    )


def _check(target: Target, way: Any, say: Callable[[str], None]) -> Callable[[Mapping[str, str]], None]:
    def check(identity: Mapping[str, str]) -> None:
        if way.function_only:
            say(f"{way.name} emulates the CPU: this proves that a calibration works there; nothing will be recorded")
            return
        wrong = unlike(target, identity)
        if wrong:
            hint = f"reach {target.title}: what another machine takes says nothing about it"
            raise ToolchainMissing(way.name, f"is {board_in_words(identity)}, not {target.name}: {wrong}", hint)
        say(f"{way.name}: {board_in_words(identity)}, taken for {target.name}")

    return check


def _table(fetched: Any, way: Any, sha256: str, layers: Mapping[str, Any], salvage: Callable[[Mapping[str, bytes]], None]) -> Table:
    try:
        table = Table.model_validate(json.loads(fetched.files[TABLE]))
    except (ValueError, ValidationError) as e:
        salvage(fetched.files)
        raise StageFailed(way.name, f"{TABLE} is no calibration ({str(e).splitlines()[0]})", "read what was kept of it, run again") from e
    if table.bundle_sha256 != sha256 or table.networks.keys() != layers.keys():
        raise StageFailed(way.name, f"{TABLE} is not of these microbenchmarks", "remove what else writes into the folder on the board")
    return table


def _identity(shell: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """What is known of the board; what the script read there counts before what the shell said."""
    return {**shell, **{k: v for k, v in table.device.items() if v not in (None, "")}}


def _refuse(table: Table, way: Any, said: Mapping[str, Any], target: Target) -> None:
    """Refuse to record what is no timing of the board."""
    shell, script, identity = said.get("machine"), table.device.get("machine"), _identity(said, table)
    if way.function_only or identity.get("emulated") or (shell and script and shell != script):
        what = f"emulates the CPU: its {len(table.networks)} microbenchmarks ran, and their times are recorded nowhere"
        raise GateUnproven(way.name, what, "an emulator proves function, never speed: calibrate on the board itself")
    wrong = unlike(target, identity)
    if wrong:
        raise UsageError(way.name, f"the table comes from {board_in_words(identity)}: {wrong}", f"calibrate on {target.title}")
    if not table.stable:
        what = f"the timing was unstable ({table.unstable_reason or 'no reason is given'}), so nothing is recorded"
        raise GateUnproven(way.name, what, "let the board cool, close what else runs there, calibrate again")


def _record(
    ask: Ask, was: Any, table: Table, layers: Mapping[str, Any], identity: Mapping[str, Any], say: Callable[[str], None]
) -> Recorded:
    learned = importlib.import_module("targets.calibration").learned
    made: Recorded = learned(
        layers,
        {name: t.ms for name, t in table.networks.items()},
        ask.target,
        backend=ask.artifact.backend,
        precision=ask.artifact.precision,
        threads=ask.cpu_threads,
        count=min(t.count for t in table.networks.values()),
        runs_on=ask.artifact.runs_on,
        machine=fingerprint() if ask.target.is_host else "",
        when=table.started,
        board=board_in_words(identity),
    )
    for old in _replaced(ask, made):
        say(f"replaces: {described(old)}")
    personal = {"uid", "user", "home", "tmp", "hostname"}
    path = record(ask.workspace, ask.target, [made], {k: v for k, v in identity.items() if k not in personal})
    say(f"recorded: {described(made)}")
    say(f"{path}")
    now, frame = _estimate(ask, refined(ask.target, ask.workspace)), ask.target.frame
    change = f"{was.ms:.2f} ms ({was.model}) before, {now.ms:.2f} ms ({now.model}) now"
    say(f"{ask.artifact.name} at {frame.width}x{frame.height}, estimated for {ask.target.name}: {change}")
    return made


def _replaced(ask: Ask, made: Recorded) -> list[Recorded]:
    path, new = calibration_path(ask.workspace, ask.target), made.calibration
    known = read(path).recorded if path.exists() else ()
    key = (made.runs_on, new.backend, new.precision, new.threads)
    return [r for r in known if (r.runs_on, r.calibration.backend, r.calibration.precision, r.calibration.threads) == key]


def _estimate(ask: Ask, target: Target) -> Any:
    """The bundle's artifact at the target's frame, as the benchmark stage estimates it."""
    multiple, frame = ask.bundle.facts.network.size_multiple, ask.target.frame
    height, width = (-(-side // multiple) * multiple for side in (frame.height, frame.width))
    layers = ask.bundle.layers(ask.artifact.name, height, width)
    return importlib.import_module("targets.estimator").estimate(layers, target.rates[ask.artifact.runs_on], backend=ask.artifact.backend)
