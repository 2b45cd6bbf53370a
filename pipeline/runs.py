"""Finding runs of the past: by folder, by name under ``runs/``, or the latest; and what they left of their stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError, did_you_mean

LATEST = "latest"


def list_runs(workspace: Path) -> list[Path]:
    """The run folders of a workspace, oldest first (their names begin with the time); empty where there are none."""
    runs = workspace / "runs"
    return sorted((p for p in runs.iterdir() if p.is_dir() and not p.is_symlink()), key=_age) if runs.is_dir() else []


def find_run(name: str, workspace: Path) -> Path:
    """The folder of a run.

    Args:
        name: the folder's path, ``latest``, or a name (or the unique beginning of one) under ``<workspace>/runs``.
        workspace: where names are looked up.

    Raises:
        UsageError: there is no such run, or several begin so.

    """
    as_path = Path(name)
    if (as_path / "run.json").is_file() or (as_path / "report.json").is_file():
        return as_path.resolve()
    known = list_runs(workspace)
    if not known:
        raise UsageError(name, f"there is no run in {workspace}", "run a pipeline first, or say --workspace DIR, or give a run's folder")
    latest = workspace / "runs" / LATEST
    if name == LATEST:
        return latest.resolve() if latest.is_dir() else known[-1]
    found = [p for p in known if p.name == name] or [p for p in known if p.name.startswith(name)]
    if len(found) == 1:
        return found[0].resolve()
    if found:
        raise UsageError(name, f"{len(found)} runs begin so", f"give more of the name: {', '.join(p.name for p in found[-3:])}")
    raise UsageError(name, f"no such run in {workspace / 'runs'}", did_you_mean(name, [LATEST, *(p.name for p in known[-5:])]))


def with_bundle(name: Path, workspace: Path, *, model: bool = False) -> Path:
    """What a verb that takes a bundle means by a name: a run, which must have a bundle, or the path as it is.

    Args:
        name: a path, ``latest``, or a run's name (or the unique beginning of one) under ``<workspace>/runs``; what lies there goes first.
        workspace: where names are looked up.
        model: a checkpoint would do as well.

    Raises:
        UsageError: a run without a bundle, no run at all behind ``latest``, or several that begin so.

    """
    text = str(name)
    is_run = text == LATEST or any(p.name.startswith(text) for p in list_runs(workspace))
    folder = find_run(text, workspace) if is_run and not name.exists() else name
    if (folder / "run.json").is_file() and not (folder / "bundle").is_dir():
        models = sorted(folder.glob("stages/*/model.safetensors")) if model else []
        other = f", or this one's checkpoint {models[-1]}" if models else ""
        raise UsageError(f"run {folder.resolve().name}", "has no bundle", f"name a run that came to the end of compile{other}")
    return folder


def read_report(run: Path) -> dict[str, Any]:
    """The run's report.json.

    Raises:
        UsageError: it is missing (the run goes on, or was killed) or is not a report.

    """
    report = read_json(run / "report.json", "the run has not ended, or was killed; run it again")
    if not isinstance(report, dict) or not isinstance(report.get("stages"), list):
        raise UsageError(str(run / "report.json"), "is not the report of a run", "run the pipeline again")
    return report


def read_json(path: Path, hint: str) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: missing or unreadable; with ``hint`` as the next step.

    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(str(path), "file does not exist", hint) from None
    except (OSError, ValueError) as e:
        raise UsageError(str(path), f"cannot be read ({e})", hint) from e


def stage_folder(run: Path, stage: str) -> Path | None:
    """The folder of a stage that the run came to, or None."""
    found = [p for p in sorted(run.glob("stages/*")) if p.name.partition("-")[2] == stage]
    return found[0] if found else None


def _age(run: Path) -> tuple[str, int]:
    """Runs begun within one second are told apart by a number after the name."""
    base, _, number = run.name.rpartition(".")
    return (base, int(number)) if base and number.isdigit() else (run.name, 0)
