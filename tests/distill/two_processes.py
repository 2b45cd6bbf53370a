"""``two_processes.py WORKDIR TEACHER JSON``: the distill stage as torchrun runs it; each process writes what it returned."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from distill import student
from pipeline.contract import Artifact, Kind
from tests.distill.stages import context


def main():
    workdir, teacher = Path(sys.argv[1]), Path(sys.argv[2])
    inputs = {"teacher": Artifact(Kind.CHECKPOINT, teacher, "0" * 64, teacher.stat().st_size)}
    result = student.run(context(student.STAGE, workdir, json.loads(sys.argv[3]), inputs))
    told = {"outputs": list(result.outputs), "measurements": [m.name for m in result.measurements]}
    (workdir / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
