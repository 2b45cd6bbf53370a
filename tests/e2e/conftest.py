from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent

SHORT = {"steps": 8, "batch": 2, "crop": 64}
"""Trainings that prove the path, not the quality."""


def short_pipeline(folder: Path) -> Path:
    """The shipped pipeline.yaml with short trainings, few images, and no bound that quality would need time to meet."""
    tree = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    for role, count in (("train", 4), ("calibrate", 2), ("test", 3)):
        tree["data"][role] |= {"count": count, "size": 128}
    stages = tree["stages"]
    for name in ("teach", "distill"):
        stages[name]["with"]["train"] = {**SHORT, "checkpoint_steps": 2}
        stages[name]["gates"] = []
    stages["teach"]["with"]["width"] = 8
    for name in ("prune", "quantize"):
        recover = {"train": {**SHORT, "checkpoint_steps": 2}}
        settings = {"recover": recover, "max_drop": 50.0, "min_speedup": 0.0, "tile": 128, "seconds": 0.1}
        stages[name]["with"] = {**stages[name].get("with", {}), **settings}
        stages[name]["gates"] = [{"metric": "psnr", "drop_at_most": 50, "against": "distill"}]
    stages["compile"]["with"] = {"threads": 1, "tile": 128, "seconds": 0.1, "max_drop": 50.0, "max_drop_worst": 50.0}
    stages["benchmark"]["with"] = {"seconds": 0.1, "count": 2}
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def pipeline(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``python -m pipeline`` as a user runs it, with the pace of a shared machine."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment(), check=False)


def environment() -> dict[str, str]:
    return os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "160"}


def report_of(workspace: Path) -> dict:
    return json.loads((workspace / "runs" / "latest" / "report.json").read_text())


def artifacts_of(report: dict) -> dict[str, str]:
    """Hash of every output that holds what was made (measurements and pictures of it apart)."""
    return {f"{s['id']}.{name}": o["sha256"] for s in report["stages"] for name, o in s["outputs"].items() if o["kind"] not in ("report",)}


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """One short run for jetson-xavier that several tests look at: (folder, report)."""
    folder = tmp_path_factory.mktemp("e2e")
    path = short_pipeline(folder)
    done = pipeline("run", path, "--target", "jetson-xavier")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, report_of(folder / ".pipeline")
