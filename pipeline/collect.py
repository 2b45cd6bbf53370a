"""What of the store no kept run refers to, and dropping it.

A kept run refers to the keys of its stages (its ``key.json`` files, events and report) and through them to results, work folders and
objects; also to the objects that its links and its report name. A run that goes on is always kept, and what came into the store since
it began stays, because its references may not be written yet. A stage whose lock is held is never touched. What stages share goes when
it was last used before the oldest kept run began.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import shared
from pipeline.key import key_of
from pipeline.runs import list_runs
from pipeline.store import Store, size_of

QUIET = 3600.0
"""Seconds without a sign of life after which a run without a report counts as killed, not as going on."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be dropped: ``kind`` is object, result, work, shared or run; ``bytes`` as they lie on the disk."""

    kind: str
    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Garbage:
    """What to drop, and the runs that decided it. ``going`` are those of the kept ones that go on."""

    items: tuple[Item, ...]
    kept: tuple[Path, ...]
    dropped: tuple[Path, ...]
    going: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """What dropping everything frees."""
        return sum(item.bytes for item in self.items)


@dataclass
class _Held:
    """Keys and objects that something refers to, and times in seconds since 1970: from ``since`` on everything stays, from ``used`` on
    what stages share: the oldest kept run began then.
    """

    keys: set[str] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)
    since: float = float("inf")
    used: float = float("inf")


def find_garbage(workspace: Path, keep: int | None = None, older_than: float | None = None, with_runs: bool = False) -> Garbage:
    """Look for what no kept run refers to; changes nothing.

    Args:
        workspace: holds the store and the runs.
        keep: keep the newest so many runs; None with ``older_than`` None: all of them.
        older_than: keep the runs that began in the last so many days.
        with_runs: the folders of the runs that are not kept are garbage too.

    """
    store, runs = Store(workspace / "store"), list_runs(workspace)
    locked = _locked(store)
    going = [r for r in runs if _goes_on(r, bool(locked))]
    kept = _chosen(runs, keep, older_than)
    kept += [r for r in going if r not in kept]
    held = _held(store, kept, locked)
    held.since = min((_began(r) for r in going), default=held.since)
    dropped = tuple(r for r in runs if r not in kept)
    items = [*_garbage(store, held), *(Item("run", r, size_of(r)) for r in dropped if with_runs)]
    return Garbage(tuple(items), tuple(kept), dropped, tuple(going))


def drop(garbage: Garbage, workspace: Path) -> int:
    """Drop what was found, but for what runs have come to refer to since. Returns the bytes that were freed.

    Results go first and objects last, with a look at the runs before each: a run names its key before it reads the result, so either
    it is seen here, or it finds no result and runs the stage.
    """
    store, spared = Store(workspace / "store"), _referred(workspace, garbage)
    freed = sum(_remove(item) for item in garbage.items if item.kind == "run")
    freed += sum(shared.drop(item.path) for item in garbage.items if item.kind == "shared")
    gone: dict[str, set[str]] = {}
    for item in (i for i in garbage.items if i.kind in ("result", "work") and i.path.stem not in spared.keys):
        with _taken(store.root / "work" / f"{item.path.stem}.lock") as free:
            if item.kind == "result":
                gone[item.path.stem] = {str(o.get("sha256")) for o in _outputs(_read(item.path))}
            if free:
                freed += _remove(item)
            else:
                spared.keys.add(item.path.stem)
    late = _referred(workspace, garbage, spared.keys)
    late.objects.update(*(gone.get(key, set()) for key in late.keys))
    return freed + sum(_remove(i) for i in garbage.items if i.kind == "object" and i.path.name not in late.objects)


def _referred(workspace: Path, garbage: Garbage, locked: Iterable[str] = ()) -> _Held:
    """What the runs of this moment refer to, without those that were not to be kept."""
    return _held(Store(workspace / "store"), [r for r in list_runs(workspace) if r not in garbage.dropped], set(locked))


def _chosen(runs: Sequence[Path], keep: int | None, older_than: float | None) -> list[Path]:
    if keep is not None:
        return list(runs[len(runs) - keep :]) if keep < len(runs) else list(runs)
    if older_than is not None:
        return [r for r in runs if time.time() - _began(r) < older_than * 86400]
    return list(runs)


def _began(run: Path) -> float:
    """When a run began: its head is its first file."""
    head = run / "run.json"
    return (head if head.exists() else run).stat().st_mtime


def _goes_on(run: Path, locked: bool) -> bool:
    if (run / "report.json").exists():
        return False
    signs = [p.stat().st_mtime for p in (run, run / "events.jsonl", *run.glob("stages/*/log.txt")) if p.exists()]
    return locked or time.time() - max(signs) < QUIET


def _locked(store: Store) -> set[str]:
    """Keys whose lock some process holds."""
    found = set()
    for path in (store.root / "work").glob("*.lock"):
        with _taken(path) as free:
            if not free:
                found.add(path.stem)
    return found


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Hold a lock for a moment; False where another process holds it. A lock file is never removed: others may wait on it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _held(store: Store, kept: Sequence[Path], locked: set[str]) -> _Held:
    held = _Held(keys=set(locked), used=min((_began(r) for r in kept), default=float("inf")))
    for run in kept:
        _add_run(run, held)
    for key in held.keys:
        result = _read(store.result_path(key))
        held.objects |= {str(o.get("sha256")) for o in _outputs(result)}
    return held


def _add_run(run: Path, held: _Held) -> None:
    for path in run.glob("stages/*/key.json"):
        parts = _read(path)
        if isinstance(parts, dict):
            held.keys.add(key_of(parts))
            held.objects |= {str(sha) for sha in (parts.get("inputs") or {}).values()}
    for path in (run / "report.json", *run.glob("stages/*/report.json")):
        report = _read(path)
        for entry in report.get("stages", [report]) if isinstance(report, dict) else []:
            held.keys.add(str(entry.get("key")))
            held.objects |= {str(o.get("sha256")) for o in _outputs(entry)}
    for link in run.glob("stages/*/*"):
        if link.is_symlink() and _DIGEST.fullmatch(link.readlink().name):
            held.objects.add(link.readlink().name)


def _garbage(store: Store, held: _Held) -> Iterator[Item]:
    """What lies in the store and is not held. ``st_ctime`` is when a file came there; its own time may be older."""
    for path in sorted((store.root / "results").glob("*/*.json")):
        if path.stem not in held.keys and path.stat().st_ctime < held.since:
            yield Item("result", path, path.stat().st_size)
    for path in sorted((store.root / "work").glob("*")):
        if path.is_dir() and path.name not in held.keys and path.stat().st_ctime < held.since:
            yield Item("work", path, size_of(path))
    for path in sorted(store.shared.glob("*/*/")):
        if shared.last_used(path) < held.used:
            yield Item("shared", path, size_of(path))
    for path in sorted((store.root / "objects").glob("*/*")):
        if path.name not in held.objects and path.lstat().st_ctime < held.since:
            yield Item("object", path, size_of(path))


def _remove(item: Item) -> int:
    if item.path.is_dir():
        shutil.rmtree(item.path)
    else:
        item.path.unlink(missing_ok=True)
    return item.bytes


def _outputs(entry: Any) -> list[dict[str, Any]]:
    outputs = entry.get("outputs") if isinstance(entry, dict) else None
    return [o for o in outputs.values() if isinstance(o, dict)] if isinstance(outputs, dict) else []


def _read(path: Path) -> Any:
    """A JSON file's content; None where it is missing or broken: what it would have named is held by the run's other files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
