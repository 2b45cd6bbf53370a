"""How long the default run takes on this machine, and how long when everything is restored.

    python benchmarks/main_job.py [--target jetson-xavier] [--workspace DIR]

Runs ``pipeline.yaml`` in a fresh workspace, then again, as separate processes; prints seconds by stage, and the start-up of ``--help``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def timed(*arguments: str) -> tuple[float, int]:
    """Wall seconds and exit code of one ``python -m pipeline`` process."""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin, done.returncode


def main() -> int:
    """Run, restore, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="jetson-xavier")
    parser.add_argument("--workspace", type=Path)
    options = parser.parse_args()
    workspace = options.workspace or Path(tempfile.mkdtemp(prefix="main-job-"))
    command = ("run", "pipeline.yaml", "--target", options.target, "--workspace", str(workspace), "--quiet")
    first, code = timed(*command)
    report = json.loads((workspace / "runs" / "latest" / "report.json").read_text())
    again, _ = timed(*command)
    starts = sorted(timed("--help")[0] for _ in range(5))
    for stage in report["stages"]:
        print(f"{stage['id']:<12}{stage['status']:<11}{stage['seconds']:8.1f} s")
    print(f"{'first run':<23}{first:8.1f} s   exit {code}, {report['verdict']}")
    print(f"{'restored run':<23}{again:8.2f} s\n{'--help':<23}{starts[2]:8.2f} s")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
