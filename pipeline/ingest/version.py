"""Writing a new version of a run's report; every earlier one stays beside it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.report import render_html, render_markdown
from pipeline.runs import stage_folder
from pipeline.stageview import stage_markdown
from pipeline.store import write_atomic

FORMS = ("json", "md", "html")
RESULTS = "ingested"


@contextlib.contextmanager
def held(run: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a run's report: from reading it to writing its next version nobody else does. The lock goes with the process."""
    with (run / ".ingest.lock").open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another ingest writes the report of {run.name}: waiting for it")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def keep_result(run: Path, content: bytes, sha256: str) -> str:
    """Keep a result in the run's folder; returns its path relative to it."""
    path = run / RESULTS / f"{sha256[:16]}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, content.decode("utf-8"))
    return path.relative_to(run).as_posix()


def write_version(run: Path, report: Mapping[str, Any], entry: Mapping[str, Any], stage: str) -> int:
    """Write report.json, report.md and report.html anew, and those of the stage that changed.

    The version before stays as ``report.<number>.json`` and so on, byte for byte.

    Args:
        run: the run's folder.
        report: the new report.
        entry: what is remembered of the result under ``ingested``.
        stage: id of the stage that changed.

    Returns:
        The number of the new version; the run's own report is 1.

    """
    number = int(report.get("version", 1))
    for form in FORMS:
        if (run / f"report.{form}").exists():
            shutil.copyfile(run / f"report.{form}", run / f"report.{number}.{form}")
    new = {**report, "version": number + 1, "ingested": [*report.get("ingested", ()), dict(entry)]}
    _write(run, "report", new)
    folder = stage_folder(run, stage)
    if folder is not None:
        found = next(s for s in new["stages"] if s["id"] == stage)
        write_atomic(folder / "report.json", json.dumps(found, indent=1, allow_nan=False) + "\n")
        write_atomic(folder / "report.md", stage_markdown(found))
    with (run / "events.jsonl").open("a", encoding="utf-8") as f:
        f.write(json.dumps({"time": round(time.time(), 3), "event": "ingested", "version": number + 1, **entry}, default=str) + "\n")
    return number + 1


def write_replayed(run: Path, report: Mapping[str, Any]) -> Path:
    """Write what recorded numbers would make of the report beside it, as report.replayed.*; the report itself is not touched."""
    _write(run, "report.replayed", {**report, "replayed": True})
    return run / "report.replayed.html"


def _write(run: Path, name: str, report: Mapping[str, Any]) -> None:
    write_atomic(run / f"{name}.md", render_markdown(report, run))
    write_atomic(run / f"{name}.html", render_html(report, run))
    write_atomic(run / f"{name}.json", json.dumps(report, indent=1, allow_nan=False) + "\n")  # last: what counts
