"""What a board without Python can run: the bundle's native runner proves and times the artifacts that it knows, as bench.py does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pipeline.errors import ToolchainMissing
from targets.transports.common.base import Identity, Job

SCRIPT = ("python", "bench.py")
"""How the step begins that the native runner can take over; its options are the same."""


def fitted(name: str, job: Job, identity: Identity, say: Callable[[str], None]) -> Job:
    """The job as this board can carry it out.

    With Python and numpy on the board nothing changes. Without, bench.py's step goes to the native runner, and where the artifact has
    none there, another artifact of the bundle takes its place, unless it was asked for by name.

    Args:
        name: what the user calls the board.
        job: what to do.
        identity: what the board says it is; "lacks" names what of Python it has not.
        say: called with each line meant for the user.

    Raises:
        ToolchainMissing: nothing of the bundle that may be measured runs there without Python.

    """
    lacks = identity.get("lacks", "").split()
    if not lacks or job.steps[-1][:2] != SCRIPT:
        return _with_python(name, job, lacks)
    native = [a for a in _artifacts(job) if _runs(a, identity.get("machine", ""))]
    facts = next((a for a in native if a["name"] == job.artifact), None)
    if facts is not None:
        say(f"{name} has no {' and no '.join(lacks)}: {job.artifact} runs there in the bundle's own runner")
        return _native(job, facts)
    if not native or job.named:
        return _with_python(name, job, lacks, [a["name"] for a in native])
    facts = min(native, key=lambda a: a["precision"] != job.facts["precision"])  # of one precision in the bundle's order
    say(f"skipped {job.artifact}: {job.facts['backend']} runs from Python alone, and {name} has no {' and no '.join(lacks)}")
    say(f"taking {facts['name']}, which runs there in the bundle's own runner")
    return _native(job, facts)


def _with_python(name: str, job: Job, lacks: list[str], native: list[str] | None = None) -> Job:
    """The job as it is; refused where it needs Python and there is none. Without numpy the script itself says what to install."""
    if "python3" not in lacks or all(step[0] != "python" for step in job.steps):
        return job
    what = f"the board has no python3, which {job.facts.get('backend', 'it')} needs to run {job.artifact}"
    if native:
        raise ToolchainMissing(name, what, f"measure what needs no Python: --artifact {native[0]}")
    if not name.startswith("adb"):
        raise ToolchainMissing(name, what, "install Python and numpy there, or list tvm among the target's backends and compile again")
    hint = (
        "list tvm among the target's backends and compile again, or give Termux there Python, numpy and sshd, and use --on ssh://PHONE:8022"
    )
    raise ToolchainMissing(name, what, hint)


def _artifacts(job: Job) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((job.bundle / "bundle.json").read_text(encoding="utf-8"))["artifacts"]
    return found


def _runs(artifact: Mapping[str, Any], machine: str) -> bool:
    """Whether the bundle holds a program for it and that machine."""
    return bool(artifact.get("runner")) and str(artifact["facts"].get("mtriple", "")).partition("-")[0] == machine


def _native(job: Job, facts: Mapping[str, Any]) -> Job:
    """The job by the native runner: what builds engines goes, the options stay."""
    options = list(job.steps[-1][len(SCRIPT) :])
    if "--artifact" in options:
        options[options.index("--artifact") + 1] = facts["name"]
    step = (f"./{facts['runner']}", "--bench", *options)
    return replace(job, artifact=facts["name"], facts=facts, steps=(step,))
