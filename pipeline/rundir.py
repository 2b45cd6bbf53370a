"""The folder of one run: what a person opens and what a program reads."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from pipeline.contract import Artifact, Kind
from pipeline.store import write_atomic

SUFFIX = {Kind.CHECKPOINT: ".safetensors"}


class RunDir:
    """``<workspace>/runs/<time>-<target>/`` with its files.

    Args:
        workspace: the workspace.
        target: name of the target.

    """

    def __init__(self, workspace: Path, target: str) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        runs = workspace / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        self.path = _fresh(runs, f"{stamp}-{target}")
        _point_latest(runs, self.path.name)

    def stage(self, number: int, id_: str) -> Path:
        """The folder of a stage, numbered in running order."""
        path = self.path / "stages" / f"{number:02d}-{id_}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def event(self, kind: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, default=str)
        with (self.path / "events.jsonl").open("a", encoding="utf-8") as f:
            f.write(line + "\n")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the run, atomically."""
        write_atomic(self.path / name, json.dumps(value, indent=1, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file of the run, atomically."""
        write_atomic(self.path / name, text)

    def expose(self, stage_dir: Path, name: str, artifact: Artifact) -> str:
        """Show an output under the stage's folder as a link into the store; a bundle is copied, for it leaves the machine.

        Returns:
            The path relative to the run directory.

        """
        link = stage_dir / f"{name}{SUFFIX.get(artifact.kind, '')}"
        if link.is_symlink():
            link.unlink()
        link.symlink_to(os.path.relpath(artifact.path, stage_dir))
        if artifact.kind is Kind.BUNDLE:
            shutil.copytree(artifact.path, self.path / "bundle", dirs_exist_ok=True)
        return link.relative_to(self.path).as_posix()


def _fresh(runs: Path, name: str) -> Path:
    for n in range(1000):
        path = runs / (name if n == 0 else f"{name}.{n}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(runs / name)


def _point_latest(runs: Path, name: str) -> None:
    tmp = runs / f".latest.{os.getpid()}"
    tmp.unlink(missing_ok=True)
    tmp.symlink_to(name)
    tmp.replace(runs / "latest")
