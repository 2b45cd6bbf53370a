"""``doctor``: what is installed here, and the fix for each gap."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ToolchainMissing

if TYPE_CHECKING:
    from pipeline.doctor import Finding

_HELP = """Look for every toolchain and device that the pipeline can use, and name the line that installs what is missing.

Nothing is installed, fetched or changed. Devices are this machine, what adb's server knows where one runs, and the boards given with
--on: each is asked what it is, and so which target.

Exit code 6 when something is missing that the target needs; without --target, that any run needs.

Example: python -m pipeline doctor --target raspberry-pi-5

Example: python -m pipeline doctor --target jetson-xavier --on ssh://nvidia@xavier
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("doctor", help=_HELP)(doctor)


def doctor(
    target: Annotated[str, typer.Option("--target", help="name of a target, or a path to a YAML", metavar="T")] = "",
    boards: Annotated[list[str], typer.Option("--on", help="ask this board too, as bench takes it; may be repeated", metavar="WHERE")] = [],  # noqa: B006 - typer wants a literal
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Look for toolchains and devices, and name the fix for each gap."""
    from pipeline.doctor import examine
    from pipeline.target import load_target

    found = examine(load_target(target) if target else None, boards)
    gaps = [f for f in found if f.needed and f.state == "missing"]
    if as_json:
        print(json.dumps({"target": target or None, "ok": not gaps, "findings": [asdict(f) for f in found]}, indent=1))
    else:
        _print(found)
        if not gaps:
            print(f"{target or 'every run'} needs {_needed(found)}: nothing is missing")
    if gaps:
        what = f"{target or 'every run'} needs what is missing: {', '.join(f'{f.group} {f.name}' for f in gaps)}"
        lines = " && ".join(dict.fromkeys(f.install for f in gaps if f.group != "devices"))  # a board's next step is no command
        raise ToolchainMissing("doctor", what, lines or gaps[0].install)


def _needed(found: list[Finding]) -> str:
    """What cannot be done without, by group: ``packages base, train; backends tvm``."""
    names: dict[str, list[str]] = {}
    for f in found:
        if f.needed:
            names.setdefault(f.group, []).append(f.name)
    return "; ".join(f"{group} {', '.join(some)}" for group, some in names.items())


def _print(found: list[Finding]) -> None:
    width, group = max(len(f.name) for f in found), ""
    for f in found:
        if f.group != group:
            group = f.group
            print(group)
        mark = {"ok": "ok     ", "missing": "MISSING" if f.needed else "missing", "none": "none   "}[f.state]
        print(f"  {mark}  {f.name:<{width}}  {f.detail}")
        if f.install:
            print(f"  {'':<7}  {'':<{width}}  -> {f.install}")
