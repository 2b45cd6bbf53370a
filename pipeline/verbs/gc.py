"""``gc``: drop what no kept run refers to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.collect import Garbage

_HELP = """Drop results, objects and unfinished work that no kept run refers to.

Nothing is dropped without --yes: the command only says what would be. All runs are kept unless --keep or --older-than says which;
runs that go on are always kept. What stages share (a teacher's kept answers) goes when it was last used before the oldest kept run began.
The folders of runs, with their reports, stay unless --runs is given.

Example: python -m pipeline gc --keep 5

Example: python -m pipeline gc --workspace .pipeline --older-than 30 --runs --yes
"""

WorkspaceOpt = Annotated[Path, typer.Option("--workspace", help="where results and runs are kept", metavar="DIR")]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("gc", help=_HELP)(gc)


def gc(
    workspace: WorkspaceOpt = Path(".pipeline"),
    keep: Annotated[int | None, typer.Option("--keep", min=0, help="keep the newest so many runs", metavar="N")] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="keep runs that began in the last so many days", metavar="DAYS")
    ] = None,
    with_runs: Annotated[bool, typer.Option("--runs", help="drop the folders of the runs that are not kept, too")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="really drop")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be dropped; so it is without --yes, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Drop results, objects and unfinished work that no kept run refers to."""
    from pipeline.collect import drop, find_garbage

    _check(workspace, keep, older_than, with_runs, yes and dry_run)
    found = find_garbage(workspace.resolve(), keep, older_than, with_runs)
    freed = drop(found, workspace.resolve()) if yes else 0
    if as_json:
        print(json.dumps(_to_json(found, yes, freed), indent=1))
    else:
        _say(found, yes, freed)


def _check(workspace: Path, keep: int | None, older_than: float | None, with_runs: bool, both: bool) -> None:
    if both:
        raise UsageError("gc", "--yes and --dry-run contradict each other", "keep one of them")
    if keep is not None and older_than is not None:
        raise UsageError("gc", "--keep and --older-than both say which runs to keep", "keep one of them")
    if with_runs and keep is None and older_than is None:
        raise UsageError("--runs", "all runs are kept, so none can be dropped", "say which to keep: --keep N or --older-than DAYS")
    if not (workspace / "store").is_dir():
        raise UsageError(f"--workspace {workspace}", "holds no store", "give the folder that holds store/ and runs/, e.g. .pipeline")


def _to_json(found: Garbage, done: bool, freed: int) -> dict[str, Any]:
    return {
        "dropped": done,
        "bytes": freed if done else found.bytes,
        "items": [{"kind": i.kind, "path": str(i.path), "bytes": i.bytes} for i in found.items],
        "runs_kept": [r.name for r in found.kept],
        "runs_not_kept": [r.name for r in found.dropped],
        "runs_going_on": [r.name for r in found.going],
    }


def _say(found: Garbage, done: bool, freed: int) -> None:
    count, size = Counter(i.kind for i in found.items), Counter[str]()
    for item in found.items:
        size[item.kind] += item.bytes
    going = f", {len(found.going)} of them going on" if found.going else ""
    print(f"runs: {len(found.kept)} kept{going}, {len(found.dropped)} not kept")
    for kind, number in count.items():
        print(f"{kind}: {number}, {_bytes(size[kind])}")
    if not found.items:
        print("nothing to drop")
    elif done:
        print(f"freed {_bytes(freed)}")
    else:
        print(f"would free {_bytes(found.bytes)}; nothing was dropped: say --yes")


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB ({count} bytes)" if count >= 1e5 else f"{count} bytes"
